"""`make demo`: a local stack, three real training runs, three that get into trouble, and what the pipeline made of it.

Everything it makes is under .demo/ and in report.html. It ends with exit code 1 when a single logged point is missing,
or a trouble was not noticed. What a person would type is run as it would be typed; what is shown is asked through
`pulsetrain.Api`.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import pulsetrain as tracker
from pulsetrain_schemas.errors import UserError

PROJECT = "digits"
TROUBLES = "troubles"
# By the name of a trouble, the name of its run and what that is expected to be noticed for.
NOTICED = {
    "nan": ("warm-up without end", "nan"),
    "loader": ("loader stalls", "loader_stall"),
    "killed": ("killed", "crashed"),
}
NOTICED_WITHIN = 120.0
HERE = Path(__file__).parent
PLACE = Path(".demo").absolute()
REPORT = Path("report.html")
STORED_WITHIN = 60.0
ALERTS = """
SELECT DISTINCT r.name, a.kind
FROM alerts AS a INNER JOIN runs AS r ON r.project = a.project AND r.run_id = a.run_id
WHERE a.project = {project:String} AND a.fired IS NOT NULL AND NOT has({before:Array(String)}, a.run_id)
"""
LATENCY = """
SELECT count(), quantileExact(0.5)(seconds), quantileExact(0.99)(seconds)
FROM
(
    SELECT (toUnixTimestamp64Micro(stored_at) - toUnixTimestamp64Micro(first_ts)) / 1e6 AS seconds
    FROM stored_batches
    WHERE project = {project:String} AND topic LIKE '%metrics' AND has({runs:Array(String)}, run_id)
)
"""
TELEMETRY = """
SELECT count(), uniqExact(metric), uniqExact(gpu) - countIf(gpu = '') > 0
FROM system WHERE project = {project:String} AND has({runs:Array(String)}, run_id)
"""

console = Console(highlight=False, soft_wrap=True)


class DemoFailed(RuntimeError):
    """A step of the demo did not succeed; the text says which."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave the stack up")
    keep = parser.parse_args().keep
    began = time.monotonic()
    for name in [name for name in os.environ if name.startswith(("PULSETRAIN_", "WANDB_"))]:
        del os.environ[name]
    os.environ |= {"PULSETRAIN_HOME": str(PLACE / "home"), "PULSETRAIN_DIR": str(PLACE / "runs")}
    try:
        heading("A local stack: Kafka, ClickHouse and the service between them")
        pulsetrain("up", "--detach", quiet=True)
        whole = show()
        heading("A look around")
        look_around(keep)
    except (DemoFailed, UserError) as failed:
        console.print(f"[red]{failed}[/red]")
        whole = False
    except KeyboardInterrupt:
        console.print("interrupted")
        whole = False
    finally:
        if not keep:
            pulsetrain("down", quiet=True, check=False)
    console.print(f"\n{time.monotonic() - began:.0f} s in all.")
    return 0 if whole else 1


def show() -> bool:
    """Trains and shows what was stored. Whether all of it was, and all that went wrong was noticed."""
    with tracker.Api() as api:
        before = {run.id for project in (PROJECT, TROUBLES) for run in api.runs(project)}
        with in_trouble() as processes:
            heading("Three small networks learn to read digits; beside them, three runs get into trouble")
            run([sys.executable, str(HERE / "digits.py"), "--project", PROJECT])
            waited = wait_stored(api, before)
            runs = new_runs(api, PROJECT, before, order="-summary.val/accuracy.max")
            show_runs(runs)
            whole = show_account(runs)
            show_pipeline(api, [found.id for found in runs], waited)
            noticed = wait_noticed(api, before, processes)
        names = [f"{found.project}/{found.id}" for found in runs]
        troubled = [f"{found.project}/{found.id}" for found in new_runs(api, TROUBLES, before)]

    heading("What the monitor noticed of the runs in trouble")
    pulsetrain("alerts", *troubled)

    heading("The same account from the journals, by `pulsetrain verify`")
    pulsetrain("verify", *names, *troubled)

    heading("The report")
    pulsetrain("report", PROJECT, TROUBLES, "-o", str(REPORT))
    return whole and noticed


def new_runs(api: tracker.Api, project: str, before: set[str], order: str = "-created") -> list[Any]:
    """The runs of this demo."""
    return [found for found in api.runs(project, order=order) if found.id not in before]


def wait_stored(api: tracker.Api, before: set[str]) -> float:
    """Waits until all is stored; for how many seconds."""
    ended = time.monotonic()
    ids = [found.id for found in new_runs(api, PROJECT, before)]
    while not settled(api.account(PROJECT, ids)) and time.monotonic() - ended < STORED_WITHIN:
        time.sleep(0.1)
    return time.monotonic() - ended


def show_runs(runs: Sequence[Any]) -> None:
    """What a person compares runs by."""
    heading("The runs, best first, as ClickHouse has them")
    table = Table("run", "id", "learning rate", "best val/accuracy", "best val/loss", "state", box=None, pad_edge=False)
    for found in runs:
        accuracy, loss = (
            best(found.summary, name, kind) for name, kind in (("val/accuracy", "max"), ("val/loss", "min"))
        )
        rate = f"{found.config['learning_rate']:g}"
        table.add_row(found.name, found.id, rate, f"{accuracy:.4f}", f"{loss:.4f}", found.state)
    console.print(table)


def show_account(runs: Sequence[Any]) -> bool:
    """What was logged beside what is stored. Whether it is the same."""
    heading("The loss account: every point logged, every point stored")
    table = Table("run", "rows logged", "points logged", "points stored", "missing", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    totals = [0, 0, 0, 0]
    whole = bool(runs)
    for found in runs:
        writers = found.account()
        whole &= settled(writers)
        counts = [
            sum(writer.produced_rows for writer in writers),
            sum(writer.produced_points + writer.produced_texts for writer in writers),
            sum(writer.stored_points + writer.stored_texts for writer in writers),
            sum(writer.missing for writer in writers),
        ]
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        table.add_row(found.name, *(f"{count:,}" for count in counts))
    table.add_row("[bold]all", *(f"[bold]{total:,}" for total in totals))
    console.print(table)
    if not whole:
        console.print(f"[red]not all of it was stored within {STORED_WITHIN:.0f} s[/red]")
    return whole


def show_pipeline(api: tracker.Api, ids: Sequence[str], waited: float) -> None:
    """How fast it was, and what was sampled meanwhile."""
    heading("The pipeline itself")
    asked = {"project": PROJECT, "runs": ids}
    ((batches, median, slowest),) = api.sql(LATENCY, asked).rows
    ((samples, metrics, gpus),) = api.sql(TELEMETRY, asked).rows
    console.print(
        f"log() to stored, the oldest row of each of {batches} batches: p50 {median:.2f} s, p99 {slowest:.2f} s"
    )
    console.print(f"all of it was stored {waited:.1f} s after the training ended")
    told = "host and GPU" if gpus else "host"
    console.print(f"{samples:,} samples of {metrics} {told} metrics lie beside the runs")


@contextmanager
def in_trouble() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Training processes that get into trouble, beside what is done meanwhile; at its end they have ended.

    What they print is in .demo/NAME.log.
    """
    processes = {}
    for name in NOTICED:
        with log_of(name).open("wb") as log:
            command = [sys.executable, str(HERE / "troubles.py"), name, "--project", TROUBLES]
            processes[name] = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield processes
    finally:
        for process in processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()


def log_of(trouble: str) -> Path:
    """What the process of a trouble prints."""
    return PLACE / f"{trouble}.log"


def wait_noticed(api: tracker.Api, before: set[str], processes: Mapping[str, subprocess.Popen[bytes]]) -> bool:
    """Waits until each trouble has an alert that fired. Whether that came."""
    began = time.monotonic()
    with console.status("waiting for the last alert: a loader is given half a minute"):
        while time.monotonic() - began < NOTICED_WITHIN:
            found = set(api.sql(ALERTS, {"project": TROUBLES, "before": sorted(before)}).rows)
            if found >= set(NOTICED.values()):
                return True
            for name, process in processes.items():
                if process.poll() not in (None, 0, -signal.SIGKILL):
                    said = log_of(name).read_text(errors="replace").strip()
                    raise DemoFailed(f"troubles.py {name} ended with exit code {process.returncode}:\n{said}")
            time.sleep(0.2)
    missing = ", ".join(f"{kind} of '{name}'" for name, kind in sorted(set(NOTICED.values()) - found))
    console.print(f"[red]no alert fired within {NOTICED_WITHIN:.0f} s: {missing}[/red]")
    return False


def settled(writers: Sequence[object]) -> bool:
    """Whether every writer has ended and nothing of it is missing."""
    return all(writer.missing == 0 and writer.state != "running" for writer in writers)  # type: ignore[attr-defined]


def best(summary: dict[str, object], name: str, kind: str) -> float:
    """What a summary says of a metric that has a `kind` of its own."""
    value = summary.get(f"{name}.{kind}", summary.get(name))
    found = value.get(kind) if isinstance(value, dict) else value
    return float(found) if isinstance(found, int | float) else float("nan")


def look_around(keep: bool) -> None:
    """What to do next."""
    place = f"PULSETRAIN_HOME={PLACE.relative_to(Path.cwd())}/home"
    console.print(f"open {REPORT} in a browser: curves of all runs, their differences, and the machine below them")
    if keep:
        console.print("the stack is up (KEEP=1). It answers SQL, from here and from any ClickHouse client:")
    else:
        console.print(f"nothing is left running. {place} .venv/bin/pulsetrain up --detach brings it back, then:")
    query = "select run_id, count() from metrics group by run_id"
    console.print(f'  {place} .venv/bin/pulsetrain sql "{query}"')
    console.print(f"  {place} .venv/bin/pulsetrain runs {PROJECT}")
    console.print(f"  {place} .venv/bin/pulsetrain down")


def heading(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def pulsetrain(*arguments: str, quiet: bool = False, check: bool = True) -> None:
    """Runs the `pulsetrain` command of this Python; `quiet` leaves its standard output away."""
    run([sys.executable, "-m", "pulsetrain.commands", *arguments], quiet=quiet, check=check)


def run(command: list[str], *, quiet: bool = False, check: bool = True) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL if quiet else None, check=False)
    if check and done.returncode != 0:
        raise DemoFailed(f"{' '.join(command[1:])} ended with exit code {done.returncode}")


if __name__ == "__main__":
    raise SystemExit(main())
