"""What earlier releases wrote is read by this one: journals of format version 1, messages of schema version 1."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder.account import journal_account
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from pulsetrain.forwarder.pump import Pump
from pulsetrain.forwarder.tail import read_identity
from pulsetrain_schemas import catalog, events
from pulsetrain_schemas.events import Alert, Command, DeadLetter, LogBatch, MetricBatch, RunEvent, SystemBatch
from pulsetrain_schemas.resolution import Resolution
from tests import versions
from tests.fixtures.expected import journal_contents, plain
from tests.journals import points_of, texts_of

FIXTURES = Path(__file__).parent.parent / "fixtures"
JOURNALS = ("whole", "unfinished", "torn", "system")
KINDS = {
    events.schema_name(kind): kind
    for kind in (RunEvent, MetricBatch, SystemBatch, LogBatch, Alert, Command, DeadLetter)
}


def expected(kind: str, name: str) -> Any:
    return json.loads((FIXTURES / kind / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one of the journals, for what reads them leaves files beside them."""
    return Path(shutil.copytree(FIXTURES / "journal_v1" / request.param, tmp_path / request.param))


def test_the_fixtures_are_all_there():
    assert {path.stem for path in (FIXTURES / "journal_v1").glob("*.json")} == set(JOURNALS)
    assert {path.stem for path in (FIXTURES / "messages_v1").glob("*.message")} == set(KINDS) == set(catalog.names())


@pytest.mark.parametrize("journal", JOURNALS, indirect=True)
def test_a_journal_of_version_1_is_read_exactly(journal: Path):
    assert json.loads(json.dumps(journal_contents(journal))) == expected("journal_v1", journal.name)


@pytest.mark.parametrize("journal", JOURNALS, indirect=True)
def test_a_journal_of_version_1_is_counted_and_sent_whole(journal: Path):
    records = expected("journal_v1", journal.name)["records"]
    rows = [record for record in records if "row" in record]
    account = journal_account(journal)
    assert account is not None
    assert account.counters.rows == len(rows)
    assert account.counters.points == sum(len(row["row"]) for row in rows)
    assert account.counters.texts == sum(len(row.get("texts", ())) for row in rows)

    broker = MemoryBroker()
    delivery = MemoryDelivery(broker)
    identity = read_identity(journal)
    assert identity is not None
    pump = Pump(journal, identity, delivery, fold=SummaryFold())
    for _ in range(1000):
        if pump.done:
            break
        pump.step(1.77e9, alive=False)
        for ticket in delivery.poll().confirmed:
            pump.confirm(ticket)  # type: ignore[arg-type]
    assert pump.done
    pump.close()
    logged = [(row["sequence"], row["step"], key, value) for row in rows for key, value in row["row"].items()]
    if journal.name == "system":
        samples = [events.decode(message.payload, SystemBatch) for message in broker.of("system")]
        assert [plain(float(value)) for batch in samples for value in batch.values] == [point[3] for point in logged]
        assert {name for batch in samples for name in batch.series_gpus} == {"", "GPU-aaaa", "GPU-bbbb"}
    else:
        batches = [events.decode(message.payload, MetricBatch) for message in broker.of("metrics")]
        assert [(*point[:3], plain(point[3])) for batch in batches for point in points_of(batch)] == logged
        texts = [(row["sequence"], key, text) for row in rows for key, text in row.get("texts", {}).items()]
        assert sorted(text for batch in batches for text in texts_of(batch)) == sorted(texts)
        lines = [events.decode(message.payload, LogBatch).lines for message in broker.of("logs")]
        console = [record["data"]["line"] for record in records if record.get("event") == "console"]
        assert [line for batch in lines for line in batch] == console
    told = [events.decode(message.payload, RunEvent) for message in broker.of("runs")]
    assert told[-1].kind == "finish"
    assert told[-1].state == ("killed" if journal.name in ("unfinished", "torn") else "finished")
    assert told[-1].rows == len(rows)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_message_of_version_1_is_decoded(name: str):
    payload = (FIXTURES / "messages_v1" / f"{name}.message").read_bytes()
    event = plain(events.decode(payload, KINDS[name]))
    wanted = expected("messages_v1", name)
    assert {key: event[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_message_of_version_1_is_read_by_the_next_version_too(name: str):
    body = (FIXTURES / "messages_v1" / f"{name}.message").read_bytes()[10:]
    first, then = catalog.history(name)[0].document, versions.newer(catalog.load(name))
    record = Resolution(then, first).decode(body)
    assert record["new_levels"].tolist() == [1, 2]
    assert record.keys() == {field["name"] for field in then["fields"]}
