"""The SQL that computes aggregates from the tables of the writer.

Each statement takes the buckets that are to be computed from a table of changes, where `%(round)s` tells them from
others. So whatever the number of series, it is one statement, and the set of buckets reaches the primary key of the raw
table: the functions that make a bucket of a step or a time are monotonic, which ClickHouse uses.

`version` counts what a row was computed from (see 0006_aggregates.sql): never a clock.
"""

from pulsetrain_consumers.aggregator.changes import BASE_STEPS, FACTOR, LEVELS

TOP = LEVELS - 1
"""The highest level of the pyramid: a row or a few for each series."""
SYSTEM_TABLES = {10: "system_10s", 60: "system_1m", 3600: "system_1h"}
"""The rollups of hardware by their seconds."""

# A step's place in its bucket and the time, as one number, for argMin compares that several times as fast as a tuple.
# Two values of one rank at one step and in one microsecond are taken in whatever order they come.
_PLACE = (
    f"bitShiftLeft(step - intDiv(step, {BASE_STEPS}) * {BASE_STEPS} + {BASE_STEPS}, 54) + toUnixTimestamp64Micro(ts)"
)

LATER_ATTEMPTS = """
SELECT toString(project), toString(run_id), attempt, min(assumeNotNull(first_step))
FROM run_events
WHERE attempt > 0 AND kind != 'heartbeat' AND first_step IS NOT NULL
    AND (project, run_id) IN (SELECT project, run_id FROM metric_changes WHERE round = %(round)s)
GROUP BY project, run_id, attempt
ORDER BY ALL
"""

# Of a run that was rewound, the buckets that are computed already. What is not, is in a message that is still to come
# or that is being computed, and then the rewind is known (see `compute_metrics`).
COMPUTED_FROM = f"""
SELECT bucket, count()
FROM metric_buckets
WHERE project = %(project)s AND run_id = %(run_id)s AND level = 0 AND bucket >= intDiv(%(step)s, {BASE_STEPS})
GROUP BY bucket
ORDER BY bucket
"""  # noqa: S608

COMPUTED = """
INSERT INTO metric_changes (round, project, run_id, metric, rank, bucket)
SELECT DISTINCT %(round)s, project, run_id, metric, rank, bucket
FROM metric_buckets
WHERE project = %(project)s AND run_id = %(run_id)s AND level = 0 AND bucket BETWEEN %(first)s AND %(last)s
"""

# A bucket of steps has a mark for each series that has points there: no more than there are series, or points.
LOGGED_BUCKETS = f"""
SELECT intDiv(step, {BASE_STEPS}) AS bucket, least(count(), (
    SELECT uniqExact(metric, rank) FROM metrics WHERE project = %(project)s AND run_id = %(run_id)s
))
FROM metrics
WHERE project = %(project)s AND run_id = %(run_id)s
GROUP BY bucket
ORDER BY bucket
"""  # noqa: S608

LOGGED = f"""
INSERT INTO metric_changes (round, project, run_id, metric, rank, bucket)
SELECT DISTINCT %(round)s, project, run_id, metric, rank, intDiv(step, {BASE_STEPS})
FROM metrics
WHERE project = %(project)s AND run_id = %(run_id)s AND intDiv(step, {BASE_STEPS}) BETWEEN %(first)s AND %(last)s
"""  # noqa: S608

ALL_OF_A_HOST = """
INSERT INTO system_changes (round, host, gpu, metric, time)
SELECT DISTINCT %(round)s, host, gpu, metric, toStartOfInterval(ts, toIntervalSecond(10))
FROM system
WHERE host = %(host)s AND ts >= fromUnixTimestamp64Micro(%(first)s) AND ts <= fromUnixTimestamp64Micro(%(last)s)
"""

_BUCKET_COLUMNS = (
    "project, run_id, level, metric, rank, bucket, count, nans, pos_infs, neg_infs, min, max, min_step, "
    "max_step, sum, first, last, first_step, last_step, first_ts, last_ts, version"
)

_LATER = """
    ANY LEFT JOIN
    (
        SELECT project, run_id, attempt, toNullable(below) AS below FROM rewinds WHERE (project, run_id) IN %(later)s
    ) AS later ON m.project = later.project AND m.run_id = later.run_id AND m.attempt = later.attempt
"""


def base_buckets(runs: str) -> str:
    """The lowest level, from the points. `runs`: "all" that have changed, or "later", those of them that have had a
    later attempt (in `%(later)s`), or "first", the others. Only for the later it is looked up what was replaced.

    Replaced points are in the groups and do not count, so a bucket that has lost all it had says so.
    """
    condition = {
        "all": "",
        "first": "AND (project, run_id) NOT IN %(later)s",
        "later": "AND (project, run_id) IN %(later)s",
    }[runs]
    joined = runs == "later"
    alive = "later.below IS NULL OR m.step < later.below" if joined else "true"
    return f"""
INSERT INTO metric_buckets ({_BUCKET_COLUMNS})
SELECT
    project, run_id, 0, metric, rank, intDiv(step, {BASE_STEPS}) AS base_bucket,
    countIf(alive), countIf(alive AND isNaN(value)), countIf(alive AND value = inf), countIf(alive AND value = -inf),
    minIf((value, step), alive AND isFinite(value)).1, maxIf((value, -step), alive AND isFinite(value)).1,
    minIf((value, step), alive AND isFinite(value)).2, -maxIf((value, -step), alive AND isFinite(value)).2,
    sumIf(value, alive AND isFinite(value)),
    argMinIf(value, {_PLACE}, alive), argMaxIf(value, {_PLACE}, alive),
    minIf(step, alive), maxIf(step, alive), minIf(ts, alive), maxIf(ts, alive),
    count() + countIf(NOT alive)
FROM
(
    SELECT m.project AS project, m.run_id AS run_id, m.metric AS metric, m.rank AS rank, m.step AS step, m.ts AS ts,
        m.value AS value, {alive} AS alive
    FROM metrics AS m
    {_LATER if joined else ""}
    WHERE (m.project, m.run_id, m.metric, m.rank, intDiv(m.step, {BASE_STEPS})) IN
        (SELECT project, run_id, metric, rank, bucket FROM metric_changes WHERE round = %(round)s {condition})
)
GROUP BY project, run_id, metric, rank, base_bucket
"""  # noqa: S608


_HAS_FINITE = "b.count > b.nans + b.pos_infs + b.neg_infs"


def upper_buckets(level: int) -> str:
    """A higher level, from the one below it."""
    return f"""
INSERT INTO metric_buckets ({_BUCKET_COLUMNS})
SELECT
    project, run_id, {level}, metric, rank, intDiv(bucket, {FACTOR}) AS upper_bucket,
    sum(b.count), sum(b.nans), sum(b.pos_infs), sum(b.neg_infs),
    minIf((b.min, b.min_step), {_HAS_FINITE}).1, maxIf((b.max, -b.max_step), {_HAS_FINITE}).1,
    minIf((b.min, b.min_step), {_HAS_FINITE}).2, -maxIf((b.max, -b.max_step), {_HAS_FINITE}).2,
    sum(b.sum),
    argMinIf(b.first, b.bucket, b.count > 0), argMaxIf(b.last, b.bucket, b.count > 0),
    minIf(b.first_step, b.count > 0), maxIf(b.last_step, b.count > 0),
    minIf(b.first_ts, b.count > 0), maxIf(b.last_ts, b.count > 0),
    sum(b.version)
FROM metric_buckets AS b FINAL
WHERE b.level = {level - 1} AND (project, run_id, metric, rank, intDiv(bucket, {FACTOR})) IN
    (
        SELECT project, run_id, metric, rank, intDiv(bucket, {FACTOR**level}) FROM metric_changes
        WHERE round = %(round)s
    )
GROUP BY project, run_id, metric, rank, upper_bucket
"""  # noqa: S608


# At the highest level of the pyramid it is cheap to see which metrics several ranks have.
_OF_SEVERAL_RANKS = f"""
    SELECT project, run_id, metric
    FROM metric_buckets
    WHERE level = {TOP} AND (project, run_id) IN
        (SELECT project, run_id FROM metric_changes WHERE round = %(round)s)
    GROUP BY project, run_id, metric
    HAVING min(rank) != max(rank)
"""  # noqa: S608

SEVERAL_RANKS = f"""
SELECT count() FROM
(
    SELECT 1 FROM metric_changes
    WHERE round = %(round)s AND (project, run_id, metric) IN ({_OF_SEVERAL_RANKS})
    LIMIT 1
)
"""  # noqa: S608


def rank_steps(*, rewound: bool) -> str:
    """The steps that several ranks have. `rewound`: some of the runs (in `%(later)s`) have had a later attempt."""
    alive = "later.below IS NULL OR m.step < later.below" if rewound else "true"
    return f"""
INSERT INTO rank_steps
    (project, run_id, metric, step, ts, ranks, count, not_finite, min, max, sum, rank_of_min, rank_of_max, version)
SELECT
    project, run_id, metric, step, maxIf(ts, alive), uniqExactIf(rank, alive),
    countIf(alive AND isFinite(value)), countIf(alive AND NOT isFinite(value)),
    minIf((value, rank), alive AND isFinite(value)).1, maxIf((value, rank), alive AND isFinite(value)).1,
    sumIf(value, alive AND isFinite(value)),
    minIf((value, rank), alive AND isFinite(value)).2, maxIf((value, rank), alive AND isFinite(value)).2,
    count() + countIf(NOT alive)
FROM
(
    SELECT m.project AS project, m.run_id AS run_id, m.metric AS metric, m.rank AS rank, m.step AS step, m.ts AS ts,
        m.value AS value, {alive} AS alive
    FROM metrics AS m
    {_LATER if rewound else ""}
    WHERE (m.project, m.run_id, m.metric) IN ({_OF_SEVERAL_RANKS})
        AND (m.project, m.run_id, m.metric, intDiv(m.step, {BASE_STEPS})) IN
            (SELECT project, run_id, metric, bucket FROM metric_changes WHERE round = %(round)s)
)
GROUP BY project, run_id, metric, step
HAVING min(rank) != max(rank)
"""  # noqa: S608


_SYSTEM_COLUMNS = (
    "host, gpu, metric, project, run_id, time, gpu_index, count, not_finite, min, max, sum, sketch, run_ids, version"
)
_OF_A_RUN = "startsWith(metric, 'process_') OR startsWith(metric, 'container_')"


def system_from_samples(seconds: int, condition: str = "") -> str:
    """A rollup of hardware, from the samples. `condition` is on `begins`, where a span begins."""
    return f"""
INSERT INTO {SYSTEM_TABLES[seconds]} ({_SYSTEM_COLUMNS})
SELECT
    host, gpu, metric, if({_OF_A_RUN}, project, '') AS of_project, if({_OF_A_RUN}, run_id, '') AS of_run,
    toStartOfInterval(ts, toIntervalSecond({seconds})) AS span, min(gpu_index),
    countIf(isFinite(value)), countIf(NOT isFinite(value)),
    minIf(value, isFinite(value)), maxIf(value, isFinite(value)), sumIf(value, isFinite(value)),
    quantilesDDStateIf(0.01, 0.5, 0.9, 0.99)(value, isFinite(value)),
    arraySort(groupUniqArray(run_id)), count()
FROM system
WHERE (host, gpu, metric, toStartOfInterval(ts, toIntervalSecond({seconds}))) IN ({_spans(seconds, condition)})
GROUP BY host, gpu, metric, of_project, of_run, span
"""  # noqa: S608


def system_from_shorter(seconds: int, shorter: int, condition: str = "") -> str:
    """A rollup of hardware, from one of a shorter span, which must still be there."""
    return f"""
INSERT INTO {SYSTEM_TABLES[seconds]} ({_SYSTEM_COLUMNS})
SELECT
    host, gpu, metric, project, run_id, toStartOfInterval(time, toIntervalSecond({seconds})) AS span, min(r.gpu_index),
    sum(r.count), sum(r.not_finite),
    minIf(r.min, r.count > 0), maxIf(r.max, r.count > 0), sum(r.sum),
    quantilesDDMergeState(0.01, 0.5, 0.9, 0.99)(r.sketch),
    arraySort(groupUniqArrayArray(r.run_ids)), sum(r.version)
FROM {SYSTEM_TABLES[shorter]} AS r FINAL
WHERE r.seconds = {shorter}
    AND (host, gpu, metric, toStartOfInterval(time, toIntervalSecond({seconds}))) IN ({_spans(seconds, condition)})
GROUP BY host, gpu, metric, project, run_id, span
"""  # noqa: S608


def _spans(seconds: int, condition: str) -> str:
    return (
        f"SELECT host, gpu, metric, toStartOfInterval(time, toIntervalSecond({seconds})) AS begins "  # noqa: S608
        f"FROM system_changes WHERE round = %(round)s{' AND ' + condition if condition else ''}"
    )
