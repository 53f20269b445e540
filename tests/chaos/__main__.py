"""`python -m tests.chaos`: each fault alone, then minutes of random combinations; 1 where anything is wrong."""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos import judge as judging
from tests.chaos import schedule
from tests.chaos.faults import FAULTS
from tests.chaos.judge import Verdict
from tests.chaos.world import World

LONG_SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for; the exit status."""
    options = _options(arguments)
    if options.list:
        for fault in FAULTS.values():
            print(f"{fault.name:32} {(fault.happens.__doc__ or '').strip()}")
        return 0
    seeds = options.seed or [random.SystemRandom().randrange(1_000_000)]
    good = True
    for seed in seeds:
        good &= run(seed, options)
    return 0 if good else 1


def run(seed: int, options: argparse.Namespace) -> bool:
    """One seed; whether nothing was lost, nothing doubled, and nothing else wrong."""
    directory = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-", dir=options.directory))
    began = time.monotonic()

    def say(text: str) -> None:
        if not options.quiet:
            print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)

    print(f"seed {seed}: logs in {directory}", flush=True)
    total, injected, failed = Verdict(), Counter[str](), []
    with World(directory, seed, say) as world:
        say("the world is up")
        usable = schedule.usable(world)
        faults = [fault for fault in usable if not options.fault or fault.name in options.fault]
        for name in sorted(FAULTS.keys() - {fault.name for fault in usable}):
            say(f"{name} is left out: it needs the right to mount a tmpfs")
        for fault in faults if not options.no_single else ():
            if options.alone and fault.name not in options.alone:
                continue
            verdict = schedule.alone(world, fault, seed, long=options.long)
            injected[fault.name] += 1
            _tell(say, fault.name, verdict)
            total.add(verdict)
            if not verdict:
                failed.append(fault.name)
        if options.minutes:
            verdict, begun = schedule.combined(world, seed, options.minutes * 60, long=options.long, choice=faults)
            injected += begun
            _tell(say, f"{sum(begun.values())} faults combined", verdict)
            total.add(verdict)
            if not verdict:
                failed.append("combined")
        complaint = judging.verified(world, world.runs, *(["--skip", "kafka"] if injected["recreate_topic"] else []))
        if complaint:
            say(complaint)
            failed.append("verify")
        happened = dict(sorted(world.happened.items()))
    _report(seed, total, injected, happened, failed, time.monotonic() - began, as_json=options.json)
    if not failed and not options.keep:
        shutil.rmtree(directory, ignore_errors=True)
    return not failed


def _tell(say: Callable[[str], None], name: str, verdict: Verdict) -> None:
    said = "ok" if verdict else "FAILED"
    extra = f", {verdict.dropped} dropped for want of room" if verdict.dropped else ""
    say(
        f"{name:36} {said:6} {verdict.logged:>9,} rows logged, {verdict.stored:>9,} stored "
        f"({verdict.points:,} points), lost {verdict.lost}, doubled {verdict.doubled}{extra}"
    )
    for complaint in verdict.complaints:
        say(f"    {complaint}")


def _report(
    seed: int,
    total: Verdict,
    injected: Counter[str],
    happened: dict[str, int],
    failed: list[str],
    seconds: float,
    *,
    as_json: bool,
) -> None:
    document = {
        "seed": seed,
        "seconds": round(seconds, 1),
        "injected": dict(sorted(injected.items())),
        "happened": happened,
        "rows_logged": total.logged,
        "rows_stored": total.stored,
        "rows_perhaps": total.perhaps,
        "rows_dropped": total.dropped,
        "points_stored": total.points,
        "lost": total.lost,
        "doubled": total.doubled,
        "failed": failed,
    }
    if as_json:
        print(json.dumps(document), flush=True)
        return
    faults = sum(injected.values())
    print(
        f"seed {seed}: {faults} faults injected, {faults - len(failed)} survived in {seconds:.0f} s; "
        f"{total.logged:,} rows logged, "
        f" {total.stored:,} stored ({total.perhaps} of calls that never returned), {total.points:,} points; "
        f"lost {total.lost}, doubled {total.doubled}" + (f"; FAILED: {', '.join(failed)}" if failed else ""),
        flush=True,
    )
    print("  " + ", ".join(f"{name} {count}" for name, count in document["injected"].items()), flush=True)  # type: ignore[attr-defined]
    print("  " + ", ".join(f"{name} {count}" for name, count in happened.items()), flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--seed", type=int, action="append", help="repeat for several; without, one is drawn and printed"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of random combinations [10]; 0 for none")
    parser.add_argument("--fault", action="append", choices=sorted(FAULTS), help="only these; may be repeated")
    parser.add_argument("--alone", action="append", choices=sorted(FAULTS), help="only these alone; may be repeated")
    parser.add_argument("--no-single", action="store_true", help="combinations alone")
    parser.add_argument(
        "--long", type=float, default=LONG_SECONDS, help="seconds for which something is away that goes away for long"
    )
    parser.add_argument("--list", action="store_true", help="say which faults there are, and end")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="the report alone")
    parser.add_argument("--keep", action="store_true", help="leave the logs also of a run that passed")
    parser.add_argument("--directory", type=Path, help="where the data and the logs go; else the temporary directory")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
