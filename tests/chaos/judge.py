"""Compares ClickHouse with what each log() call returned for: how many, their sum, each once, and in order.

Nothing is asked with FINAL. What a process logged is computed again from the counters of its ledger.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.ledger import Counted
from tests.chaos.workload import ALERT_EVERY, ODD, ODD_EVERY, TEXT_EVERY, WIDE_KEYS, alert_title
from tests.chaos.world import Workload, World

SETTLE_SECONDS = 60.0
"""Storing may stand still for so long, as when a store that was away is asked again only after a while."""


# What an alert may have been, one after another.
_LIVES = (
    ("pending",), ("pending", "firing"), ("pending", "firing", "resolved"), ("pending", "resolved"),
    ("firing",), ("firing", "resolved"),
)  # fmt: skip


@dataclass(slots=True)
class Verdict:
    """What was logged and what is stored, in rows of log(); `complaints` is empty where all is as it must be."""

    logged: int = 0
    """Rows that log() returned for and did not count as dropped."""
    stored: int = 0
    points: int = 0
    lost: int = 0
    doubled: int = 0
    perhaps: int = 0
    """Rows whose log() had not returned when the process was killed, and that are stored."""
    dropped: int = 0
    """Rows for which there was no room on the disk, and that were counted as such."""
    complaints: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not (self.lost or self.doubled or self.complaints)

    def complain(self, text: str) -> None:
        if len(self.complaints) < 20:
            self.complaints.append(text)

    def add(self, other: "Verdict") -> None:
        """Adds another one's figures."""
        for name in ("logged", "stored", "points", "lost", "doubled", "perhaps", "dropped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.complaints += other.complaints


@dataclass(frozen=True, slots=True)
class _Stored:
    """What is stored of one stream: rows, different numbers, and the highest."""

    rows: int
    numbers: int
    highest: int


def wait_stored(world: World, project: str, settle: float = SETTLE_SECONDS) -> None:
    """Waits until every row that was logged is there, or nothing has changed for long."""
    wanted = sum(stream.returned - stream.dropped for stream in _streams(world.of(project)))
    last, since = (-1, 0, 0), time.monotonic()
    while time.monotonic() - since < settle:
        rows = world.query(
            "SELECT count() FROM metrics WHERE project = %(project)s AND endsWith(metric, '/i')", {"project": project}
        )[0][0]
        missing = len(_missing(world, project))
        alerts = len(_missing_alerts(world, project))
        if rows >= wanted and not missing and not alerts and not _unfinished(world, project):
            return
        if (rows, missing, alerts) != last:
            last, since = (rows, missing, alerts), time.monotonic()
        world.pause(0.25)


def judge(world: World, project: str) -> Verdict:
    """The verdict on everything that was logged to a project."""
    verdict = Verdict()
    workloads = world.of(project)
    stored = _stored_rows(world, project)
    for workload in workloads:
        _judge_workload(workload, stored, verdict)
    known = {stream.stream for stream in _streams(workloads)}
    for stream in stored.keys() - known:
        verdict.complain(f"rows of {stream} are stored, which nobody logged")
    _judge_values(world, project, workloads, stored, verdict)
    _judge_sequences(world, project, verdict)
    _judge_runs(world, project, workloads, verdict)
    _judge_summaries(world, project, workloads, verdict)
    _judge_alerts(world, project, workloads, verdict)
    verdict.points = world.query("SELECT count() FROM metrics WHERE project = %(project)s", {"project": project})[0][0]
    return verdict


def _streams(workloads: Sequence[Workload]) -> Iterator[Counted]:
    for workload in workloads:
        yield from workload.counted()


def _stored_rows(world: World, project: str) -> dict[str, _Stored]:
    rows = world.query(
        "SELECT metric, count(), uniqExact(value), max(value) FROM metrics "
        "WHERE project = %(project)s AND endsWith(metric, '/i') GROUP BY metric",
        {"project": project},
    )
    return {metric.removesuffix("/i"): _Stored(count, numbers, int(most)) for metric, count, numbers, most in rows}


def _judge_workload(workload: Workload, stored: dict[str, _Stored], verdict: Verdict) -> None:
    """Rows below `returned` must be there, but for as many as the process counted as dropped."""
    returned = dropped = numbers = perhaps = doubled = 0
    for stream in workload.counted():
        found = stored.get(stream.stream, _Stored(0, 0, -1))
        inside = int(stream.begun > stream.returned and found.highest == stream.begun - 1)
        returned += stream.returned
        dropped += stream.dropped
        numbers += found.numbers - inside
        perhaps += inside
        doubled += found.rows - found.numbers
        if found.highest >= stream.begun:
            verdict.complain(f"{stream.stream}: row {found.highest} is stored, {stream.begun} were begun")
    missing = returned - dropped - numbers
    if workload.killed and dropped and missing < 0:
        missing = 0  # the row that it was killed over was counted as dropped, and not as returned
    verdict.logged += returned - dropped
    verdict.dropped += dropped
    verdict.stored += numbers + perhaps + doubled
    verdict.perhaps += perhaps
    verdict.doubled += doubled
    verdict.lost += max(missing, 0)
    if doubled:
        verdict.complain(f"{workload.name}: {doubled} rows are stored twice")
    if missing:
        verdict.complain(
            f"{workload.name}: {returned} rows logged, {dropped} of them dropped, {numbers} stored: "
            + ", ".join(
                f"{s.stream} {s.begun}/{s.returned}/{s.dropped} {stored.get(s.stream)}" for s in workload.counted()
            )
        )


def _judge_values(
    world: World, project: str, workloads: Sequence[Workload], stored: dict[str, _Stored], verdict: Verdict
) -> None:
    """All values of a row came with it, and they are what was logged."""
    found = {
        metric: tuple(rest)
        for metric, *rest in world.query(
            "SELECT metric, count(), sum(if(isFinite(value) AND value < 1e300, value, 0)), countIf(isNaN(value)), "
            "countIf(value = inf), countIf(value = -inf), countIf(value = 1e308) "
            "FROM metrics WHERE project = %(project)s GROUP BY metric",
            {"project": project},
        )
    }
    for workload in workloads:
        for stream in workload.counted():
            rows = stored.get(stream.stream)
            if rows is None or any(mate.dropped for mate in workload.counted()):
                continue  # which rows were dropped is not known, only how many
            expected = _expected(stream.stream, rows.numbers, workload.kind)
            for metric, wanted in expected.items():
                if found.get(metric) != wanted:
                    verdict.complain(f"{metric}: count, sum, NaN, inf, -inf, 1e308: {found.get(metric)}, not {wanted}")
    broken = world.query(
        "SELECT stream, any(number) FROM (SELECT writer, sequence, anyIf(value, endsWith(metric, '/i')) AS number, "
        "anyIf(value, endsWith(metric, '/x')) AS x, any(splitByChar('/', metric)[1]) AS stream, any(step) AS at "
        "FROM metrics WHERE project = %(project)s AND sequence %% 8 = 3 GROUP BY writer, sequence) "
        "WHERE x != number * 0.5 + 0.25 OR at != number GROUP BY stream",
        {"project": project},
    )
    for stream_name, number in broken:
        verdict.complain(f"{stream_name}: the values of row {number:g} do not belong together")
    texts = dict(
        world.query("SELECT key, count() FROM texts WHERE project = %(project)s GROUP BY key", {"project": project})
    )
    for workload in workloads:
        for stream in workload.counted():
            rows = stored.get(stream.stream)
            if workload.kind == "texts" and rows is not None and not stream.dropped:
                wanted_texts = math.ceil(rows.numbers / TEXT_EVERY)
                if texts.get(f"{stream.stream}/text", 0) != wanted_texts:
                    verdict.complain(f"{stream.stream}/text: {texts.get(f'{stream.stream}/text')}, not {wanted_texts}")


def _expected(stream: str, rows: int, kind: str) -> dict[str, tuple[float, ...]]:
    """What the metrics of a stream add up to, where rows 0 to `rows` - 1 are stored."""
    total = rows * (rows - 1) // 2
    odd = math.ceil(rows / ODD_EVERY)
    shares = [len(range(which, odd, len(ODD))) for which in range(len(ODD))]
    expected: dict[str, tuple[float, ...]] = {
        f"{stream}/i": (rows, float(total), 0, 0, 0, 0),
        f"{stream}/x": (rows, total * 0.5 + rows * 0.25, 0, 0, 0, 0),
    }
    if odd:
        expected[f"{stream}/odd"] = (odd, 0.0, *shares)
    if kind == "wide":
        expected |= {f"{stream}/w{n}": (rows, float(n * rows), 0, 0, 0, 0) for n in range(WIDE_KEYS)}
    return expected


def _judge_sequences(world: World, project: str, verdict: Verdict) -> None:
    """In every table each (writer, sequence) is there once; the rows of a stream are in the order of its journal."""
    for table, key in (
        ("metrics", "writer, sequence, metric"),
        ("texts", "writer, sequence, key"),
        ("system", "writer, sequence, gpu, metric"),
        ("run_events", "writer, sequence, kind"),
    ):
        extra = world.query(
            f"SELECT count() - uniqExact({key}) FROM {table} WHERE project = %(project)s", {"project": project}
        )[0][0]
        if extra:
            verdict.doubled += extra if table != "metrics" else 0
            verdict.complain(f"{table}: {extra} rows are stored twice")
    back = world.query(
        "SELECT count() FROM (SELECT value < lagInFrame(value, 1, -1) OVER (PARTITION BY metric, writer ORDER BY "
        "sequence ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS goes_back FROM metrics "
        "WHERE project = %(project)s AND endsWith(metric, '/i')) WHERE goes_back",
        {"project": project},
    )[0][0]
    if back:
        verdict.complain(f"{back} rows have a lower sequence than a row logged before them")


def _unfinished(world: World, project: str) -> int:
    """Runs whose end is not stored yet."""
    runs = {workload.run_id for workload in world.of(project) if not workload.may_be_no_run}
    states = dict(world.query("SELECT run_id, state FROM runs WHERE project = %(project)s", {"project": project}))
    return sum(states.get(run) not in ("finished", "killed", "failed") for run in runs)


def _judge_runs(world: World, project: str, workloads: Sequence[Workload], verdict: Verdict) -> None:
    """The state of every run, and the product's own account of the loss."""
    states = dict(world.query("SELECT run_id, state FROM runs WHERE project = %(project)s", {"project": project}))
    for run_id in {workload.run_id for workload in workloads}:
        mates = [workload for workload in workloads if workload.run_id == run_id]
        wanted = {"killed" if mate.killed else "finished" for mate in mates}
        wanted |= {"finished" for mate in mates if mate.killed and mate.ledger.finishing}
        if all(mate.may_be_no_run for mate in mates) and run_id not in states:
            continue
        if states.get(run_id) not in wanted:
            verdict.complain(f"run {run_id} is {states.get(run_id)}, not {' or '.join(wanted)}")
    for run_id, writer, produced, lacking in _missing(world, project):
        verdict.complain(f"the view ingest: run {run_id}, writer {writer[:8]}: {lacking} of {produced} missing")


def _judge_summaries(world: World, project: str, workloads: Sequence[Workload], verdict: Verdict) -> None:
    """The summary of a run has the last row of each stream.

    Of a run that was resumed it is not asked: with the database away, its new attempt knows nothing of the earlier one.
    """
    runs = Counter(workload.run_id for workload in workloads)
    told = world.query(
        "SELECT run_id, metric, last, JSONExtract(summary, toString(metric), 'Nullable(Float64)') AS told FROM "
        "(SELECT run_id, metric, max(value) AS last FROM metrics "
        "WHERE project = %(project)s AND endsWith(metric, '/i') GROUP BY run_id, metric) AS logged "
        "LEFT JOIN (SELECT run_id, summary FROM runs WHERE project = %(project)s) AS runs USING (run_id)",
        {"project": project},
    )
    for run_id, metric, last, in_summary in told:
        if runs[run_id] == 1 and in_summary != last:
            verdict.complain(f"the summary of run {run_id} has {metric} = {in_summary}, not {last}")


def _missing_alerts(world: World, project: str) -> set[str]:
    """The titles of alerts that run.alert() returned for, and that are not there. Where rows had no room, neither may
    an alert have had any.
    """
    expected = {
        alert_title(stream.stream, number)
        for workload in world.of(project)
        if workload.alerts and not any(stream.dropped for stream in workload.counted())
        for stream in workload.counted()
        for number in range(0, stream.returned, ALERT_EVERY)
    }
    told = world.query(
        "SELECT DISTINCT title FROM alerts WHERE project = %(project)s AND kind = 'user' AND state = 'resolved'",
        {"project": project},
    )
    return expected - {title for (title,) in told}


def _judge_alerts(world: World, project: str, workloads: Sequence[Workload], verdict: Verdict) -> None:
    """Each run.alert() is one alert, and each alert that the monitor raised lived one life."""
    missing = _missing_alerts(world, project)
    if missing:
        verdict.complain(f"{len(missing)} alerts are missing, among them {', '.join(sorted(missing)[:5])}")
    begun = {stream.stream: stream.begun for stream in _streams(workloads)}
    found = world.query(
        "SELECT title, count() FROM alerts WHERE project = %(project)s AND kind = 'user' GROUP BY title",
        {"project": project},
    )
    for title, count in found:
        stream, _, number = title.rpartition(" ")
        if int(number) >= begun.get(stream, 0):
            verdict.complain(f"alert {title} is there, which nobody raised")
        if count > 1:
            verdict.complain(f"alert {title} is there {count} times")
    lives = world.query(
        "SELECT kind, subject, run_id, groupArray(state) FROM (SELECT DISTINCT kind, subject, run_id, alert_id, "
        "sequence, state FROM alert_events WHERE project = %(project)s ORDER BY alert_id, sequence) "
        "GROUP BY kind, subject, run_id, alert_id",
        {"project": project},
    )
    for kind, subject, run_id, states in lives:
        if tuple(states) not in _LIVES:
            verdict.complain(f"alert {kind} {subject} of run {run_id} was {', '.join(states)} in turn")


def _missing(world: World, project: str) -> Sequence[tuple[Any, ...]]:
    """What the product's own account of the loss complains of: run, writer, points produced, points missing."""
    return world.query(
        "SELECT run_id, writer, produced_points + produced_texts, missing FROM ingest "
        "WHERE project = %(project)s AND missing != 0",
        {"project": project},
    )


def verified(world: World, directory: Path, *options: str) -> str:
    """What `pulsetrain verify` complains of; empty where it ends well."""
    done = world.pulsetrain("verify", "--dir", str(directory), "--wait", "30", *options)
    return (
        "" if done.returncode == 0 else f"pulsetrain verify ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )
