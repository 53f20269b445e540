"""Draws faults: each alone, or random combinations for a while, from a seed that says it all."""

import random
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from tests.chaos import judge as judging
from tests.chaos.faults import FAULTS, Fault, Scene
from tests.chaos.judge import Verdict
from tests.chaos.world import World

MOST_AT_ONCE = 3
KINDS = ("plain", "threads", "texts", "forks", "wide")
LEAST_TRAINING = 4
STOP_SECONDS = 120.0


def usable(world: World) -> list[Fault]:
    """The faults that can happen here: a disk is filled only where one may be mounted."""
    fills = {"journal": world.journal_disk, "broker": world.broker_disk, "clickhouse": world.clickhouse_disk}
    return [fault for fault in FAULTS.values() if not fault.fills or fills[fault.fills].can_fill]


def alone(world: World, fault: Fault, seed: int, *, long: float, settle: float = judging.SETTLE_SECONDS) -> Verdict:
    """One fault amid steady logging, and the verdict. `settle`: seconds that storing may stand still at the end."""
    project = f"alone-{fault.name}-{seed}"
    chance = random.Random(f"{seed} {fault.name}")
    for kind in fault.load:
        world.wait_logging(world.train(project, kind, rate=fault.rate), 20)
    world.pause(chance.uniform(0.3, 1.5))
    trouble = _inject(fault, Scene(world, project, chance, long))
    world.pause(0.5)
    return _conclude(world, project, trouble, settle)


def combined(
    world: World, seed: int, seconds: float, *, long: float, choice: Sequence[Fault]
) -> tuple[Verdict, Counter[str]]:
    """Random faults, up to three at once, for so many seconds; the verdict, and how often each was injected."""
    project = f"combined-{seed}"
    chance = random.Random(seed)
    begun: Counter[str] = Counter()
    trouble: list[str] = []
    active: dict[Future[list[str]], Fault] = {}
    for kind in KINDS:
        _train(world, project, kind)
    deadline = time.monotonic() + seconds
    # The threads live as long as the pool: what they start is tied to their life.
    with ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="fault") as pool:
        while time.monotonic() < deadline:
            for future in [future for future in active if future.done()]:
                del active[future]
                trouble += future.result()
            fault = _draw(chance, choice, list(active.values()))
            if fault is not None:
                begun[fault.name] += 1
                others = ", ".join(other.name for other in active.values())
                world.say(f"+ {fault.name}" + (f"  (with {others})" if others else ""))
                scene = Scene(world, project, random.Random(chance.getrandbits(64)), chance.uniform(0.2, 1.0) * long)
                active[pool.submit(_inject, fault, scene)] = fault
            if sum(workload.running for workload in world.of(project)) < LEAST_TRAINING:
                _train(world, project, chance.choice(KINDS))
            world.pause(chance.uniform(0.2, 3.0))
        for future in active:
            trouble += future.result()
        return _conclude(world, project, trouble, judging.SETTLE_SECONDS), begun


def _inject(fault: Fault, scene: Scene) -> list[str]:
    """Lets it happen; what went wrong with that, such as a part that did not come back."""
    try:
        fault.happens(scene)
    except Exception:  # whatever it is, it is for the report
        return [f"{fault.name}: {traceback.format_exc(limit=-3)}"]
    return []


def _train(world: World, project: str, kind: str) -> None:
    world.train(project, kind, rate=20 if kind == "wide" else 300)


def _draw(chance: random.Random, choice: Sequence[Fault], active: Sequence[Fault]) -> Fault | None:
    """A fault that fits to those that are on; None where none is to be added now."""
    if len(active) >= MOST_AT_ONCE or any(fault.alone for fault in active):
        return None
    touched = frozenset().union(*(fault.touches for fault in active))
    fitting = [f for f in choice if not f.touches & touched and not (f.alone and active)]
    return chance.choice(fitting) if fitting else None


def _conclude(world: World, project: str, trouble: list[str], settle: float) -> Verdict:
    """Ends the training, sends what is offline, waits until all is stored, and judges."""
    try:
        world.stop_training(project, STOP_SECONDS)
    except AssertionError as error:
        trouble.append(str(error))
    if any(not workload.online for workload in world.of(project)):
        for _ in range(2):
            done = world.pulsetrain("sync", str(world.elsewhere))
            if done.returncode:
                trouble.append(f"pulsetrain sync ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    judging.wait_stored(world, project, settle)
    verdict = judging.judge(world, project)
    verdict.complaints += trouble
    return verdict
