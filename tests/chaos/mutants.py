"""`python -m tests.chaos.mutants`: puts bugs in on purpose, and ends with 1 where one of them is not noticed.

First the models in memory are run over every mutation of the writer and of the forwarder, then the harness itself, with
real processes, over those that the whole claim hangs on. It is a test of the tests.
"""

import argparse
import logging
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import mutants_forwarder, mutants_writer, schedule
from tests.chaos.faults import FAULTS
from tests.chaos.mutation import noticed
from tests.chaos.world import World
from tests.unit import test_forwarder_exactly_once, test_runtime_exactly_once

TRIES = 4
SETTLE_SECONDS = 15.0

MODELS = (
    ("writer", mutants_writer.MUTANTS, test_runtime_exactly_once.ExactlyOnce),
    ("forwarder", mutants_forwarder.MUTANTS, test_forwarder_exactly_once.ExactlyOnce),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """A mutation of one of the services, and the faults under which it must show."""

    service: str
    mutant: str
    faults: tuple[str, ...]


TRIALS = (
    Trial("writer", "drop_the_token", ("kill_writer_before_ledger",)),
    Trial("writer", "commit_the_end_before_inserting", ("kill_writer_during_insert", "kill_clickhouse_during_insert")),
    Trial("writer", "do_not_announce", ("kill_writer_before_ledger",)),
    Trial("writer", "forget_the_ledger", ("kill_forwarder",)),
    Trial("forwarder", "acknowledges_before_sending_is_confirmed", ("kill_broker_and_forwarder",)),
    Trial("forwarder", "forgets_what_was_in_flight_without_rewinding", ("kill_broker", "broker_unreachable")),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for; the exit status."""
    options = _options(arguments)
    logging.disable()
    missed = []
    if not options.no_models:
        for service, mutants, model in MODELS:
            for name, mutant in mutants.items():
                began = time.monotonic()
                how = noticed(mutant, model)
                _say(f"the model, {service}", name, f"caught: {how[:60]}" if how else "NOT CAUGHT", began)
                if not how:
                    missed.append(f"{service} {name} (model)")
    if not options.no_harness:
        seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
        print(f"seed {seed}", flush=True)
        for trial in TRIALS:
            began = time.monotonic()
            how = _try(trial, seed)
            _say(f"the harness, {trial.service}", trial.mutant, how or "NOT CAUGHT", began)
            if not how:
                missed.append(f"{trial.service} {trial.mutant} (harness)")
    print(f"not caught: {', '.join(missed)}" if missed else "every mutation was caught", flush=True)
    return 1 if missed else 0


def _try(trial: Trial, seed: int) -> str:
    """By which fault, and how, the harness noticed the mutation; empty where it did not."""
    directory = Path(tempfile.mkdtemp(prefix=f"mutant-{trial.mutant[:20]}-"))
    mutants = {f"{trial.service}_mutant": trial.mutant}
    try:
        with World(directory, seed, lambda _: None, **mutants) as world:  # type: ignore[arg-type]
            for attempt in range(TRIES):
                for name in trial.faults:
                    verdict = schedule.alone(world, FAULTS[name], seed + attempt, long=8, settle=SETTLE_SECONDS)
                    if not verdict:
                        said = f"lost {verdict.lost}, doubled {verdict.doubled}"
                        return f"caught by {name}: {said}, {len(verdict.complaints)} complaints"
        return ""
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _say(where: str, name: str, how: str, began: float) -> None:
    print(f"{where:24} {name.replace('_', ' '):58} {how}  ({time.monotonic() - began:.0f} s)", flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutants", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--no-models", action="store_true", help="the harness alone")
    parser.add_argument("--no-harness", action="store_true", help="the models alone, which takes a minute")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
