"""A disk that is really full, under the journal, its acknowledgements and its checkpoints: what was kept is not lost,
what was not is counted, and it goes on when there is room."""

import json
from pathlib import Path

from tests.small_disk import run_on_small_disk

PREAMBLE = """
import json, os, sys
from pathlib import Path
disk = Path(sys.argv[1])
os.environ.update(PULSETRAIN_HOME=str(disk / "home"), PULSETRAIN_DIR=str(disk / "runs"), PULSETRAIN_MODE="offline")
os.environ.update(PULSETRAIN_CONSOLE="off")
from pulsetrain._run import link
link.Link.announce = lambda *_: None
link.Link.watch = lambda *_: None
from pulsetrain.journal import writer
writer.RETRY_SECONDS = 30.0  # until a test frees the disk
import pulsetrain
from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder import account, ledger, removal, sending
from pulsetrain.forwarder.acknowledgement import Acknowledged
from pulsetrain.forwarder.checkpoint import Checkpoint
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from pulsetrain.forwarder.pump import Pump
from pulsetrain.forwarder.retention import Keeper, Policy
from pulsetrain.forwarder.tail import read_identity
from pulsetrain_schemas import events
from tests.journals import points_logged, points_of, records

ballast = disk / "ballast"

def fill():
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass

def free(run=None):
    ballast.unlink()
    if run is not None:
        run._history._writer._retry_at = 0.0
"""


def on_disk(tmp_path: Path, code: str, size: str = "24m") -> dict:
    done = run_on_small_disk(PREAMBLE + code, tmp_path / "disk", size)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"said": done.stderr}


def test_rows_that_a_full_disk_kept_out_are_counted_and_the_others_are_there(tmp_path):
    result = on_disk(
        tmp_path,
        """
run = pulsetrain.init(project="p", id="r")
kept, rows = [], 0
def log(count):
    global rows
    for _ in range(count):
        before = run._history.dropped
        run.log({"value": float(rows), "other": 1.0})
        if run._history.dropped == before:
            kept.append(float(rows))
        rows += 1
log(1000)
fill()
log(120_000)                    # the segment's rest, then nothing
dropped_while_full = rows - len(kept)
free(run)
log(1000)
after = kept[-1] == float(rows - 1)
fill()
log(150_000)
run.finish()                    # the last words fit, though the disk is full
journal = run._history.directory
(finish,) = records(journal, "finish")
values = [p[3] for p in points_logged(journal) if p[2] == "value"]
print(json.dumps({
    "same": values == kept, "dropped": finish.data["dropped"], "expected": rows - len(kept),
    "while_full": dropped_while_full, "after": after, "state": finish.data["state"],
}))
""",
    )
    assert result["same"]
    assert result["dropped"] == result["expected"]
    assert result["while_full"] > 10_000
    assert result["after"]
    assert result["state"] == "finished"
    assert result["said"].count("there is no room for the journal: the disk") == 1
    assert f"{result['dropped']:,} rows of run" in result["said"]


def test_what_kafka_confirmed_is_written_down_once_there_is_room_and_nothing_is_sent_as_new(tmp_path):
    result = on_disk(
        tmp_path,
        """
run = pulsetrain.init(project="p", id="r")
for step in range(200_000):
    run.log({"value": float(step), "other": 1.0})
journal = run._history.directory
fill()
broker = MemoryBroker()
def forwarder():
    delivery = MemoryDelivery(broker)
    return Pump(journal, read_identity(journal), delivery, fold=SummaryFold()), delivery
def turn(pump, delivery, alive=True):
    pump.step(1.77e9, alive=alive)
    for ticket in delivery.poll().confirmed:
        pump.confirm(ticket)
    try:
        pump.save()
    except OSError:
        return True
    return False
pump, delivery = forwarder()
refused = sum(turn(pump, delivery) for _ in range(40))
left_over = [path.name for path in journal.iterdir() if path.name.startswith(".")]
known = Acknowledged.load(journal).sequence
free()
for _ in range(40):
    turn(pump, delivery)
written = Acknowledged.load(journal).sequence
checkpoint = Checkpoint.load(journal)
pump.close()
run.finish()
pump, delivery = forwarder()
while not pump.done:
    turn(pump, delivery, alive=False)
batches = [events.decode(message.payload, events.MetricBatch) for message in broker.of("metrics")]
points = [point for batch in batches for point in points_of(batch)]
print(json.dumps({
    "refused": refused, "left_over": left_over, "known": known, "written": written,
    "segment": checkpoint.position.segment, "same": points == points_logged(journal),
}))
""",
    )
    assert result["refused"] > 0
    assert result["left_over"] == []
    assert result["known"] == 0
    assert result["written"] > 200_000
    assert result["segment"] > 1
    assert result["same"]


def test_on_a_full_disk_what_kafka_has_makes_room_for_what_it_has_not(tmp_path):
    result = on_disk(
        tmp_path,
        """
first = pulsetrain.init(project="p", id="first")
for step in range(80_000):
    first.log({"value": float(step), "other": 1.0})
first.finish()
sent = first._history.directory
sending.send(sent, MemoryDelivery(MemoryBroker()))
run = pulsetrain.init(project="p", id="second", reinit=True)
for step in range(1000):
    run.log({"value": float(step)})
fill()
for step in range(150_000):
    run.log({"value": float(step)})
dropped = run._history.dropped
keeper = Keeper(disk / "runs", Policy(grace=0.0, max_bytes=float("inf")))
try:
    usage = keeper.look()
except OSError:
    usage = keeper.look()
run._history._writer._retry_at = 0.0
run.log({"value": 1.0})
kept = run._history.dropped == dropped
run.finish()
(entry,) = ledger.removed(disk / "runs").values()
print(json.dumps({
    "dropped": dropped, "kept": kept, "gone": not sent.exists(), "rows": entry.counters.rows,
    "there": [path.name[-6:] for path in (disk / "runs").glob("*run-*")],
}))
""",
    )
    assert result["dropped"] > 0
    assert result["gone"]
    assert result["rows"] == 80_000
    assert result["there"] == ["second"]
    assert result["kept"]
