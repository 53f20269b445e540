"""The detectors against the corpus: python -m tests.corpus [--cases N] [--seeds FIRST | --tune] [--only WORD] [--day
RUNS]

Seeds 0 to 4999 are for tuning, those from 5000 on for reporting. With --day, healthy runs of 24 hours are simulated
instead.
"""

import argparse
import sys
import time

from tests.bench.machine import describe
from tests.corpus.day import days
from tests.corpus.evaluation import heard, judge, report, wrong
from tests.corpus.generator import case, cases


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5000)
    parser.add_argument("--tune", action="store_true", help="seeds from 0 on")
    parser.add_argument("--only", default="", help="kinds of cases that contain this word")
    parser.add_argument("--verbose", action="store_true", help="say at once what goes wrong")
    parser.add_argument("--day", type=int, default=0, metavar="RUNS")
    options = parser.parse_args()
    print(describe("numpy"))
    first = 0 if options.tune else options.seeds
    if options.day:
        return days(options.day, first)
    started = time.process_time()
    outcomes = []
    try:
        for kind, seed in cases(options.cases, first):
            if options.only in kind:
                made = case(kind, seed)
                outcomes.append(judge(made, heard(made)))
                if options.verbose:
                    print(wrong([outcomes[-1]]), file=sys.stderr, end="", flush=True)
    except KeyboardInterrupt:
        print("interrupted: what there is so far", file=sys.stderr)
    print(report(outcomes))
    print(f"{len(outcomes)} cases from seed {first}, {time.process_time() - started:.0f} s of processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
