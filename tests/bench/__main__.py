"""Every benchmark, one after another, each in a process of its own: python -m tests.bench [NAME ...]"""

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Runs the benchmarks whose names contain one of the words given, or all. Returns how many failed."""
    words = sys.argv[1:]
    names = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    failed = 0
    for name in names:
        if words and not any(word in name for word in words):
            continue
        print(f"\n## {name.removeprefix('bench_')}\n", flush=True)
        failed += subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
