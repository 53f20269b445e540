"""Runs on a terminal: the table of `pulsetrain runs` and the screen of `pulsetrain show`, and both as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pulsetrain_consumers.reading import lineage
from pulsetrain_consumers.reading.formats.base import as_json, as_text
from pulsetrain_consumers.reading.formats.table import harmless
from pulsetrain_consumers.reading.model import (
    AlertRecord,
    Attempt,
    ConsoleLine,
    Curve,
    RunKey,
    RunRecord,
    Telemetry,
    WriterAccount,
)
from pulsetrain_consumers.reading.selection import ABSENT, look_up
from pulsetrain_consumers.reading.sparkline import sparkline

CURVE_BUCKETS = 400
_PLAIN_WIDTH = 200
_SHOWN_COLUMNS = 5
_SEVERITY_STYLES = {"info": "", "warning": "yellow", "critical": "red"}
_STATE_STYLES = {"running": "cyan", "finished": "green", "failed": "red", "crashed": "red", "killed": "red"}


@dataclass(frozen=True, slots=True)
class RunView:
    """What `pulsetrain show` shows of a run."""

    record: RunRecord
    curves: Sequence[Curve]
    telemetry: Sequence[Telemetry]
    console: Sequence[ConsoleLine]
    accounts: Sequence[WriterAccount]
    attempts: Sequence[Attempt] = ()
    alerts: Sequence[AlertRecord] = ()


def print_runs(
    runs: Sequence[RunRecord], steps: Mapping[RunKey, int], columns: Sequence[str], out: TextIO, *, with_project: bool
) -> None:
    """The table of runs; without columns wished for, those summary keys that most runs share."""
    if not runs:
        out.write("no runs\n")
        return
    keys = list(columns) or _common_keys(runs)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    if with_project:
        table.add_column("project")
    for name in ("name", "id", "state", "created"):
        table.add_column(name, overflow="fold")
    for name in ("duration", "last step", *keys):
        table.add_column(Text(harmless(name)), justify="right", overflow="fold")
    for run in runs:
        step = steps.get(run.key)
        cells = [
            Text(harmless(run.label)),
            Text(harmless(run.run_id), style="dim"),
            state_text(run.state),
            Text("" if run.created is None else run.created.astimezone().strftime("%Y-%m-%d %H:%M")),
            Text(duration(run.duration)),
            Text("" if step is None else f"{step:,}"),
            *(Text(harmless(_short(look_up(run, key)))) for key in keys),
        ]
        table.add_row(*([Text(harmless(run.project))] if with_project else []), *cells)
    _console(out).print(table)


def print_run(view: RunView, out: TextIO) -> None:
    """One run on one screen."""
    record = view.record
    console = _console(out)
    console.print(
        Text.assemble(
            (harmless(record.label), "bold"),
            "  ",
            state_text(record.state),
            "  ",
            (harmless(f"{record.project}/{record.run_id}"), "dim"),
        )
    )
    facts = {
        "created": "" if record.created is None else record.created.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "duration": duration(record.duration),
        "host": record.host,
        "program": record.program,
        "commit": record.git_commit[:12],
        "group": record.group,
        "tags": ", ".join(record.tags),
        "notes": record.notes,
        **lineage.facts(record, view.attempts),
        "exit code": "" if record.exit_code is None else str(record.exit_code),
    }
    console.print(_pairs({name: text for name, text in facts.items() if text}))
    for title, values in (("Config", record.config), ("Summary", record.summary)):
        if values:
            _section(console, title, _pairs({key: _short(value) for key, value in sorted(values.items())}))
    if view.alerts:
        _section(console, "Alerts", _alerts(view.alerts, with_run=False))
    if view.curves:
        _section(console, "Curves", _curves(view.curves))
    if view.telemetry:
        _section(console, "Hardware", _telemetry(view.telemetry))
    if view.console:
        lines = [Text(harmless(line.line), style="red" if line.stream == "stderr" else "") for line in view.console]
        _section(console, "Console", Group(*lines))
    _section(console, "Loss account", account_text(view.accounts))


def print_alerts(alerts: Sequence[AlertRecord], out: TextIO) -> None:
    """The table of alerts."""
    if not alerts:
        out.write("no alerts\n")
        return
    _console(out).print(_alerts(alerts, with_run=True))


def alerts_as_json(alerts: Sequence[AlertRecord]) -> str:
    """An array of objects."""
    return _dump([asdict(alert) for alert in alerts])


def account_text(accounts: Sequence[WriterAccount]) -> Text:
    """One line: what was logged, what is stored, and whether that is the same."""
    produced = sum(account.produced_points + account.produced_texts for account in accounts)
    stored = sum(account.stored_points + account.stored_texts for account in accounts)
    missing = sum(account.missing for account in accounts)
    writers = f"by {len(accounts)} writer{'' if len(accounts) == 1 else 's'}"
    if missing:
        return Text(
            f"{produced:,} values logged {writers}, {stored:,} stored: {missing:,} missing (or still on their way)",
            style="red",
        )
    return Text(f"{produced:,} values logged {writers}, {stored:,} stored: nothing is missing", style="green")


def state_text(state: str) -> Text:
    """The state in its colour."""
    return Text(harmless(state), style=_STATE_STYLES.get(state, ""))


def duration(seconds: float | None) -> str:
    """12.3s, 4m 05s, 1h 02m, 3d 04h."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for unit, size, lower, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // part:02}{lower}"
    raise AssertionError(f"{seconds} is under a minute")


def runs_as_json(runs: Sequence[RunRecord], steps: Mapping[RunKey, int]) -> str:
    """An array of objects, with the whole config and summary."""
    return _dump([_record(run) | {"last_step": steps.get(run.key)} for run in runs])


def run_as_json(view: RunView) -> str:
    """One object; each curve with its number of points, its extremes and its last value."""
    return _dump(
        _record(view.record)
        | {
            "metrics": {curve.metric: _curve_facts(curve) for curve in view.curves},
            "hardware": [
                {"host": one.host, "gpu": one.gpu, "gpu_index": one.gpu_index, "metric": one.metric}
                | _telemetry_facts(one)
                for one in view.telemetry
            ],
            "console": [
                {"time": as_text(line.time), "stream": line.stream, "line": line.line} for line in view.console
            ],
            "alerts": [asdict(alert) for alert in view.alerts],
            "attempts": [asdict(attempt) for attempt in view.attempts],
            "account": [asdict(account) | {"missing": account.missing} for account in view.accounts],
        }
    )


def _record(run: RunRecord) -> dict[str, Any]:
    return asdict(run) | {"id": run.run_id}


def _dump(value: Any) -> str:
    return json.dumps(as_json(value), ensure_ascii=False, indent=2)


def _curve_facts(curve: Curve) -> dict[str, Any]:
    facts: dict[str, Any] = {"points": curve.points}
    finite = np.flatnonzero(~np.isnan(curve.lows))
    if len(finite):
        low, high = finite[curve.lows[finite].argmin()], finite[curve.highs[finite].argmax()]
        facts |= {"min": float(curve.lows[low]), "min_step": int(curve.low_steps[low])}
        facts |= {"max": float(curve.highs[high]), "max_step": int(curve.high_steps[high])}
    last = int(curve.last_steps.argmax())
    odd = {"nan": curve.nans, "+inf": curve.positive_infinities, "-inf": curve.negative_infinities}
    counted = {name: int(counts.sum()) for name, counts in odd.items() if counts.any()}
    return facts | {"last": float(curve.lasts[last]), "last_step": int(curve.last_steps[last])} | counted


def _telemetry_facts(series: Telemetry) -> dict[str, float]:
    if np.isnan(series.means).all():
        return {}
    mean = float(np.average(np.nan_to_num(series.means), weights=series.counts * ~np.isnan(series.means)))
    return {"min": float(np.nanmin(series.lows)), "mean": mean, "max": float(np.nanmax(series.highs))}


def _alerts(alerts: Sequence[AlertRecord], *, with_run: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in (*(("run",) if with_run else ()), "since", "state", "step", "alert"):
        table.add_column(name, overflow="fold", justify="right" if name == "step" else "left", no_wrap=name == "since")
    for alert in alerts:
        style = _SEVERITY_STYLES.get(alert.severity, "")
        state = alert.state
        if alert.resolved is not None:
            state = f"{state} after {duration((alert.resolved - alert.started).total_seconds())}"
        if alert.silenced:
            state += ", silenced"
        table.add_row(
            *((Text(harmless(f"{alert.project}/{alert.run_id}"), style="dim"),) if with_run else ()),
            Text(alert.started.astimezone().strftime("%Y-%m-%d %H:%M:%S")),
            Text(harmless(state), style=style if alert.state == "firing" else "dim"),
            Text("" if alert.step is None else f"{alert.step:,}"),
            Text.assemble((harmless(alert.title), style), *((f"\n{line}", "dim") for line in _said(alert))),
        )
    return table


def _said(alert: AlertRecord) -> list[str]:
    ending = f"over: {alert.ending}" if alert.ending else ""
    return [harmless(text) for text in (alert.text, ending) if text]


def _curves(curves: Sequence[Curve]) -> Table:
    table = _facts_table("metric", "curve", "min", "max", "last", "points")
    for curve in curves:
        facts = _curve_facts(curve)
        odd = " ".join(f"{facts[name]:,} {name}" for name in ("nan", "+inf", "-inf") if name in facts)
        table.add_row(
            Text(harmless(curve.metric)),
            Text(sparkline(curve.means), style="cyan"),
            *(_short(facts.get(name)) for name in ("min", "max", "last")),
            Text(f"{facts['points']:,}") + Text(f" {odd}" if odd else "", style="yellow"),
        )
    return table


def _telemetry(telemetry: Sequence[Telemetry]) -> Table:
    table = _facts_table("", "over time", "min", "mean", "max")
    for series in telemetry:
        facts = _telemetry_facts(series)
        name = series.metric if series.gpu_index < 0 else f"gpu {series.gpu_index} {series.metric}"
        table.add_row(
            Text(harmless(name)),
            Text(sparkline(series.means), style="cyan"),
            *(_short(facts.get(key)) for key in ("min", "mean", "max")),
        )
    return table


def _facts_table(*names: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    for i, name in enumerate(names):
        table.add_column(name, justify="left" if i < 2 else "right", overflow="fold", no_wrap=i == 1)
    return table


def _pairs(values: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, text in values.items():
        table.add_row(Text(harmless(name)), Text(harmless(text)))
    return table


def _section(console: Console, title: str, content: RenderableType) -> None:
    console.print()
    console.print(Text(title, style="bold"))
    console.print(content)


def _common_keys(runs: Sequence[RunRecord]) -> list[str]:
    counts = Counter(key for run in runs for key, value in run.summary.items() if isinstance(value, int | float))
    # Those that most runs have; among equals, validation before training, for that is what is compared.
    ranked = sorted(counts, key=lambda key: (-counts[key], not key.startswith(("val", "eval", "test", "best")), key))
    return ranked[:_SHOWN_COLUMNS]


def _short(value: Any) -> str:
    if value is ABSENT or value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    text = as_text(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text):,} characters)"


def _console(out: TextIO) -> Console:
    return Console(file=out, highlight=False, width=None if out.isatty() else _PLAIN_WIDTH)
