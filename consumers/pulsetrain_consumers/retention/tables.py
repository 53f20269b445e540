"""Which tables hold what of a run, and by which of their columns a row's age is told."""

from collections.abc import Mapping

TABLES_OF_RUNS: Mapping[str, str] = {
    "metrics": "attempt_started",
    "texts": "attempt_started",
    "system": "attempt_started",
    "logs": "attempt_started",
    "run_events": "attempt_started",
    "run_values": "attempt_started",
    "stored_batches": "last_ts",
    "alert_events": "started",
    "metric_buckets": "last_ts",
    "rank_steps": "ts",
}
"""By table the column that tells how old a row's attempt is. Each has the columns `project` and `run_id`."""

BULKY: Mapping[str, tuple[str, str]] = {"samples": ("system", "ts"), "logs": ("logs", "ts")}
"""What may be kept for less long than the run that it belongs to: by kind the table, and the time of a row."""

KINDS = ("runs", *BULKY)

POOLED = ("system_10s", "system_1m", "system_1h")
"""Sums of a machine's hardware, over all runs on it: they name in `run_ids` whose samples are in them. Their rows of
single runs (what measures a run's own processes) have `project` and `run_id`."""

OTHERS = ("metric_changes", "deletions")
"""Tables with `project` and `run_id` that hold nothing of a run: an aggregator's notes of an hour, the deletions."""
