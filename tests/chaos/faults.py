"""What happens to the world. A fault is a function that does its harm, lets it last, and mends it before it returns.

Each names what it `touches`; two that touch the same thing are not drawn at the same time. `alone`: it needs the rest
of the world to stand still, and is not drawn into a combination while another is on.
"""

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.chaos.proxy import Proxy
from tests.chaos.world import Workload, World, WriterSlot
from tests.chaos.writer_process import BOUNDARIES
from tests.waiting import wait_for

# One that was killed again and again is started again after a minute.
FORWARDER_SECONDS = 90


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a fault happens: the world, the project that is logged to, chance, and how long things may last."""

    world: World
    project: str
    random: random.Random
    long: float
    """Seconds that something stays away for when it goes "for minutes"."""

    def lasting(self, least: float, most: float) -> None:
        """Lets time pass."""
        self.world.pause(self.random.uniform(least, most))

    def victims(self) -> list[Workload]:
        """The training processes that run, and log online."""
        return [workload for workload in self.world.of(self.project) if workload.running and workload.online]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of harm. `load` is the kinds of training processes that it is shown with when it is alone."""

    name: str
    happens: Callable[[Scene], None]
    touches: frozenset[str]
    alone: bool = False
    fills: str = ""
    """The disk that it fills; such a fault is left out where that cannot be mounted."""
    load: tuple[str, ...] = ("plain", "threads", "texts")
    rate: float = 500.0


FAULTS: dict[str, Fault] = {}


def fault(
    *touches: str, alone: bool = False, fills: str = "", load: tuple[str, ...] = (), rate: float = 500.0
) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Registers a function under its own name."""

    def register(happens: Callable[[Scene], None]) -> Callable[[Scene], None]:
        entry = Fault(
            happens.__name__, happens, frozenset(touches), alone, fills, load or ("plain", "threads", "texts"), rate
        )
        FAULTS[entry.name] = entry
        return happens

    return register


# -- the training process


@fault("training", load=("plain", "forks", "texts"))
def kill_training(scene: Scene) -> None:
    """SIGKILL between two calls of log(), mostly; another process takes the run up, or begins a new one."""
    victims = scene.victims()
    if not victims:
        return
    victim = scene.random.choice(victims)
    scene.world.kill_training(victim)
    again = scene.random.random() < 0.5
    scene.world.train(
        scene.project,
        victim.kind,
        rate=500,
        run_id=victim.run_id if again else None,
        resume="allow" if again else None,
    )


@fault("training", load=("plain", "threads"))
def kill_training_inside_log(scene: Scene) -> None:
    """SIGKILL of a process that does nothing but log, until one was hit inside the call."""
    world = scene.world
    for _ in range(6):
        workload = world.train(scene.project, scene.random.choice(["plain", "threads"]), rate=0)
        world.wait_logging(workload, scene.random.randint(100, 3_000))
        world.kill_training(workload)
        inside = sum(stream.begun - stream.returned for stream in workload.counted())
        world.happened["killed inside log()"] += inside
        if inside:
            return


@fault("training", load=("plain", "plain"))
def kill_a_rank(scene: Scene) -> None:
    """Two ranks of one run, of which one is killed; then both begin again as the next attempt."""
    world = scene.world
    run_id = f"{scene.project}-ranks-{len(world.workloads)}"
    ranks = [world.train(scene.project, "plain", rate=300, run_id=run_id, rank=rank) for rank in (0, 1)]
    for rank in ranks:
        world.wait_logging(rank, 100)
    scene.random.shuffle(ranks)
    world.kill_training(ranks[0])
    scene.lasting(0.1, 1.0)
    world.kill_training(ranks[1])
    for rank in (0, 1):
        world.train(scene.project, "plain", rate=300, run_id=run_id, rank=rank, resume="allow")


# -- the forwarder


@fault("forwarder")
def kill_forwarder(scene: Scene) -> None:
    """SIGKILL of the forwarder, several times at any moment; it is started again by itself."""
    for _ in range(scene.random.randint(1, 4)):
        wait_for(scene.world.forwarder_pids, FORWARDER_SECONDS, "a forwarder", 0.05)
        scene.world.kill_forwarder()
        scene.lasting(0.0, 1.5)
    wait_for(scene.world.forwarder_pids, FORWARDER_SECONDS, "a forwarder that came back", 0.05)


@fault("forwarder")
def stop_forwarder(scene: Scene) -> None:
    """SIGSTOP of the forwarder, so that the broker and the processes think what they like; then SIGCONT."""
    for pid in wait_for(scene.world.forwarder_pids, FORWARDER_SECONDS, "a forwarder", 0.05):
        with _stopped(pid):
            scene.lasting(1, 5)


@fault("forwarder", "training", load=("plain", "texts"))
def kill_training_and_forwarder(scene: Scene) -> None:
    """Both are gone at once, as when a machine runs out of memory."""
    victims = scene.victims()
    scene.world.kill_forwarder()
    if victims:
        scene.world.kill_training(scene.random.choice(victims))


@fault("forwarder", "broker", "broker.network")
def kill_broker_and_forwarder(scene: Scene) -> None:
    """The forwarder dies while the broker is away: what it held is in the journals alone."""
    world = scene.world
    with world.held_down("broker"):
        world.broker.kill()
        scene.lasting(2, 5)
        world.kill_forwarder()
        scene.lasting(0, 1)
        world.broker.start()


# -- the broker


@fault("broker")
def kill_broker(scene: Scene) -> None:
    """SIGKILL of the broker, and a new start over the same data."""
    world = scene.world
    with world.held_down("broker"):
        world.broker.kill()
        scene.lasting(0, 2)
        world.broker.start()


@fault("broker", "broker.network")
def broker_away(scene: Scene) -> None:
    """The broker is down for minutes."""
    world = scene.world
    with world.held_down("broker"):
        world.broker.stop()
        world.pause(scene.long)
        world.broker.start()


@fault("broker.network")
def broker_unreachable(scene: Scene) -> None:
    """The network takes what is sent to the broker, and nothing ever comes back."""
    proxy = scene.world.broker.proxy
    proxy.silent = True
    scene.lasting(2, 12)
    proxy.cut_now()
    proxy.silent = False


@fault("broker.network")
def late_acknowledgements(scene: Scene) -> None:
    """Everything that the broker says comes seconds late."""
    _answer_late(scene, scene.world.broker.proxy, most=4)


@fault("broker.network")
def cut_kafka_connections(scene: Scene) -> None:
    """Connections to the broker end in the middle of a frame, again and again."""
    _cut_again_and_again(scene, scene.world.broker.proxy, [50, 2_000, 200_000])


@fault("broker", "broker.network", "forwarder", "writers", "clickhouse", "clickhouse.network", "disk", alone=True)
def recreate_topic(scene: Scene) -> None:
    """A topic is deleted and made anew, after all that was in it is stored: its offsets begin again at zero."""
    world = scene.world
    with contextlib.ExitStack() as stack:
        for pid in wait_for(world.forwarder_pids, FORWARDER_SECONDS, "a forwarder", 0.05):
            stack.enter_context(_stopped(pid))
        _wait_all_stored(world)
        world.recreate_topic("metrics")


@fault("poison", "broker")
def poison_messages(scene: Scene) -> None:
    """Somebody sends what no writer can read: noise, half messages, schemas that nobody has published."""
    noise = [b"", b"garbage", b"\x00\x00\x00\x00\x07?", b"\xc3\x01" + scene.random.randbytes(8) + b"?"]
    scene.world.send(scene.random.choice(["metrics", "runs", "system", "logs"]), noise * scene.random.randint(1, 200))


# -- the monitor


@fault("monitor", load=("plain", "threads", "forks"), rate=1_000.0)
def kill_monitor(scene: Scene) -> None:
    """SIGKILL of the monitor, several times: while it comes up, while it lives its past once more, while it tells."""
    for _ in range(scene.random.randint(2, 5)):
        scene.lasting(0.2, 6.0)
        scene.world.kill_monitor()


@fault("monitor")
def stop_monitor(scene: Scene) -> None:
    """SIGSTOP of the monitor for longer than its group waits; then SIGCONT, and it finds that it has missed much."""
    process = scene.world.monitor
    if process is None:
        return
    with scene.world.held_down("monitor"), _stopped(process.pid):
        scene.lasting(2.0, 12.0)


# -- the writers


def _writer_dies_at(boundary: str) -> Callable[[Scene], None]:
    def happens(scene: Scene) -> None:
        world = scene.world
        slot = scene.random.choice(world.writer_slots)
        world.kill_writer(slot, "--die-at", boundary, "--nth", str(scene.random.randint(1, 4)))
        # The process that follows dies by itself once batches come to it; where it has no partitions, it need not.
        before = slot.process
        doomed = wait_for(lambda: slot.process if slot.process is not before else None, 30, "a writer in its place")
        with contextlib.suppress(AssertionError):
            wait_for(lambda: slot.process is not doomed, 25, "the end of a writer", 0.05)
            world.happened[f"writer died {boundary}"] += 1

    happens.__name__ = f"kill_writer_{boundary}"
    happens.__doc__ = f"SIGKILL of a writer, {boundary.replace('_', ' ')}."
    return happens


for _boundary in BOUNDARIES:
    fault("writers", rate=1_000)(_writer_dies_at(_boundary))


@fault("writers")
def zombie_writer(scene: Scene) -> None:
    """SIGSTOP of a writer until its group goes on without it, then SIGCONT."""
    world = scene.world
    slot = scene.random.choice(world.writer_slots)
    assert slot.process is not None
    with world.held_down(slot.name), _stopped(slot.process.pid):
        others = len(world.writer_slots) - 1
        with contextlib.suppress(AssertionError):
            wait_for(lambda: _members(world) <= others, 25, "a group without the stopped writer", 0.25)
            world.happened["zombies"] += 1
        scene.lasting(0, 3)


@fault("writers")
def writers_join_and_leave(scene: Scene) -> None:
    """More writers come, and go in order or by SIGKILL."""
    world = scene.world
    for _ in range(scene.random.randint(1, 2)):
        slot = WriterSlot(100 + scene.random.randrange(1_000_000))
        world.start_writer(slot)
        scene.lasting(2, 5)
        assert slot.process is not None
        slot.process.send_signal(scene.random.choice([signal.SIGTERM, signal.SIGKILL]))
        slot.process.wait(20)


# -- ClickHouse


@fault("clickhouse", rate=1_000)
def kill_clickhouse_during_insert(scene: Scene) -> None:
    """SIGKILL of ClickHouse when a block of rows goes to it."""
    world = scene.world
    process = world.clickhouse.process
    assert process is not None
    world.clickhouse_proxy.on_bytes(scene.random.choice([1_000, 10_000, 30_000]), process.kill)
    with contextlib.suppress(AssertionError):
        wait_for(lambda: process.poll() is not None, 10, "an insert", 0.02)
        world.happened["ClickHouse killed during an insert"] += 1
    world.clickhouse_proxy.on_bytes(1 << 60, process.kill)


@fault("clickhouse", "clickhouse.network")
def clickhouse_away(scene: Scene) -> None:
    """ClickHouse is down for minutes."""
    world = scene.world
    with world.held_down("clickhouse"):
        world.clickhouse.stop()
        world.pause(scene.long)
        world.clickhouse.start()


@fault("clickhouse.network")
def cut_clickhouse_connections(scene: Scene) -> None:
    """Connections to ClickHouse end in the middle of a block."""
    _cut_again_and_again(scene, scene.world.clickhouse_proxy, [100, 5_000, 100_000])


@fault("clickhouse.network")
def late_clickhouse(scene: Scene) -> None:
    """ClickHouse answers seconds late."""
    _answer_late(scene, scene.world.clickhouse_proxy, most=3)


# -- the rest of the world


@fault("disk", fills="journal", load=("plain", "plain"))
def full_disk_under_the_journal(scene: Scene) -> None:
    """No byte is free where the journals are: log() goes on and counts what it could not keep."""
    world = scene.world
    busy = world.train(scene.project, "plain", rate=20_000, rows=scene.random.randint(150_000, 250_000))
    world.wait_logging(busy, 5_000)
    _full_disk(scene, scene.world.journal_disk.fill, scene.world.journal_disk.free)


@fault("disk", "broker", fills="broker")
def full_disk_under_the_broker(scene: Scene) -> None:
    """No byte is free where the broker writes: it stops, and comes back when there is room."""
    _full_disk(scene, scene.world.broker_disk.fill, scene.world.broker_disk.free)


@fault("disk", "clickhouse", fills="clickhouse")
def full_disk_under_clickhouse(scene: Scene) -> None:
    """No byte is free where ClickHouse stores."""
    _full_disk(scene, scene.world.clickhouse_disk.fill, scene.world.clickhouse_disk.free)


def _full_disk(scene: Scene, fill: Callable[[], None], free: Callable[[], None]) -> None:
    fill()
    try:
        scene.lasting(3, 8)
    finally:
        free()


@fault("clock")
def clock_jumps(scene: Scene) -> None:
    """The wall clock goes back an hour, forward a day, and back."""
    for offset in (-3_600.0, 86_400.0, scene.random.uniform(-1e6, 1e6), 0.0):
        scene.world.shift_clock(offset)
        scene.lasting(1, 4)  # the summary is told every two seconds


@fault("offline", load=("plain",))
def offline_until_sync(scene: Scene) -> None:
    """A machine that never sees the stack; its folder is synced at the end, twice."""
    world = scene.world
    kind = scene.random.choice(["plain", "threads", "forks"])
    workload = world.train(scene.project, kind, rate=0, rows=30_000, online=False)
    world.wait_logging(workload, 3_000)
    if scene.random.random() < 0.5:
        world.kill_training(workload)


def _answer_late(scene: Scene, proxy: Proxy, most: float) -> None:
    proxy.answer_delay = scene.random.uniform(0.5, most)
    scene.lasting(3, 8)
    proxy.answer_delay = 0.0


def _cut_again_and_again(scene: Scene, proxy: Proxy, most_bytes: list[int]) -> None:
    for _ in range(scene.random.randint(2, 6)):
        proxy.cut_soon(scene.random.choice(most_bytes))
        scene.lasting(0.2, 1.5)


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _members(world: World) -> int:
    try:
        return world.group_members()
    except Exception:  # the broker is away as well
        return 99


def _wait_all_stored(world: World) -> None:
    """Waits until the writers have committed all that the topics hold."""
    wait_for(lambda: world.lag() == 0, 90, "everything in Kafka to be stored", 0.25)
