"""The arrows between the packages: schemas, then producer, consumers and the local stack, which know only schemas."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_package_imports_one_that_it_must_not() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    answer = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "0 broken" in answer.stdout


def test_the_command_that_starts_a_stack_is_quick_to_import() -> None:
    """`pulsetrain status` runs at every prompt of somebody: no Kafka, ClickHouse or chDB is imported for it."""
    script = "import sys, pulsetrain_local.commands; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(answer.stdout.split())
    assert loaded.isdisjoint({"kafka", "clickhouse_driver", "chdb", "numpy", "pandas", "jgo", "rich"})
