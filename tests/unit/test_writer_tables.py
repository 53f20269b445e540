"""From events to columns: the vectorised way gives what a plain loop over rows gives."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pulsetrain_consumers.clickhouse import Dictionary
from pulsetrain_consumers.writer import tables
from pulsetrain_consumers.writer.tables import Kept
from pulsetrain_schemas.events import Alert, LogBatch, MetricBatch, Origin, RunEvent, SystemBatch

STARTED = 1_700_000_000_123_456
NAMES = ("loss", "acc", "lr", "✓")


def rows(columns: Any) -> list[dict[str, Any]]:
    plain = {
        name: [column.values[code] for code in column.codes] if isinstance(column, Dictionary) else list(column)
        for name, column in columns.items()
    }
    return [dict(zip(plain, values, strict=True)) for values in zip(*plain.values(), strict=True)]


@st.composite
def metric_batches(draw: st.DrawFn) -> Kept[MetricBatch]:
    keys = draw(st.permutations(NAMES))
    shapes = draw(st.lists(st.lists(st.integers(0, 3), max_size=4, unique=True), min_size=1, max_size=3))
    count = draw(st.integers(0, 6))
    first = draw(st.integers(1, 50))
    row_shapes = draw(st.lists(st.integers(0, len(shapes) - 1), min_size=count, max_size=count))
    texts = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, 3)), max_size=4)) if count else []
    size = sum(len(shapes[shape]) for shape in row_shapes)
    event = MetricBatch(
        origin=Origin(
            draw(st.sampled_from("pq")),
            "r",
            draw(st.sampled_from("vw")),
            draw(st.integers(0, 3)),
            1,
            STARTED,
            first,
            99,
        ),
        keys=keys,
        shape_lengths=np.array([len(shape) for shape in shapes]),
        shape_keys=np.array([key for shape in shapes for key in shape], dtype=np.int64),
        row_sequences=np.arange(first, first + count),
        row_steps=np.arange(count) * 7 - 3,
        row_times=STARTED + np.arange(count),
        row_shapes=np.array(row_shapes, dtype=np.int64),
        values=np.arange(size) / 4 + first,
        text_rows=np.array([row for row, _ in texts], dtype=np.int64),
        text_keys=np.array([key for _, key in texts], dtype=np.int64),
        text_values=[f'"{index}"' for index in range(len(texts))],
    )
    keep = draw(st.one_of(st.none(), st.lists(st.booleans(), min_size=count, max_size=count).map(np.array)))
    return Kept(event, None if keep is None else keep.astype(bool))


def by_hand(batch: list[Kept[MetricBatch]]) -> tuple[list[Any], list[Any]]:
    points, texts = [], []
    for kept in batch:
        event, origin, at = kept.event, kept.event.origin, 0
        starts = np.cumsum([0, *event.shape_lengths])
        for row, shape in enumerate(event.row_shapes):
            names = [event.keys[key] for key in event.shape_keys[starts[shape] : starts[shape + 1]]]
            for name in names:
                if kept.keep is None or kept.keep[row]:
                    where = (origin.project, origin.writer, origin.rank, event.row_sequences[row], event.row_steps[row])
                    points.append((*where, event.row_times[row], name, event.values[at]))
                at += 1
        for row, key, value in zip(event.text_rows, event.text_keys, event.text_values, strict=True):
            if kept.keep is None or kept.keep[row]:
                where = (origin.project, origin.writer, origin.rank, event.row_sequences[row], event.row_steps[row])
                texts.append((*where, event.row_times[row], event.keys[key], value))
    return points, texts


@given(st.lists(metric_batches(), min_size=1, max_size=4))
def test_metrics_and_texts_are_what_a_loop_over_rows_gives(batch: list[Kept[MetricBatch]]) -> None:
    found = tables.metric_tables(batch)
    points, texts = by_hand(batch)
    order = ("project", "writer", "rank", "sequence", "step", "ts")
    assert [tuple(row[n] for n in (*order, "metric", "value")) for row in rows(found["metrics"])] == points
    assert [tuple(row[n] for n in (*order, "key", "value")) for row in rows(found["texts"])] == texts
    assert all(row["attempt_started"] == STARTED // 10**6 for row in rows(found["metrics"]))
    assert sum(tables.kept_rows(kept, tables.metric_rows) for kept in batch) == len(points) + len(texts)


def test_system_samples_keep_their_series_and_only_the_rows_that_are_new() -> None:
    event = SystemBatch(
        origin=Origin("p", "r", "w", 0, 0, STARTED, 1, 2),
        host="h",
        series_metrics=("cpu", "power"),
        series_gpus=("", "GPU-1"),
        series_gpu_indexes=np.array([-1, 3]),
        shape_lengths=np.array([2]),
        shape_keys=np.array([1, 0]),
        row_sequences=np.array([1, 2]),
        row_times=np.array([10, 20]),
        row_shapes=np.array([0, 0]),
        values=np.array([1.0, 2.0, 3.0, 4.0]),
    )
    found = rows(tables.system_tables([Kept(event), Kept(event, np.array([False, True]))])["system"])
    shown = [(row["host"], row["gpu"], row["gpu_index"], row["metric"], row["ts"], row["value"]) for row in found]
    second = [("h", "GPU-1", 3, "power", 20, 3.0), ("h", "", -1, "cpu", 20, 4.0)]
    assert shown == [("h", "GPU-1", 3, "power", 10, 1.0), ("h", "", -1, "cpu", 10, 2.0), *second, *second]


def test_lines_are_told_apart_by_stream() -> None:
    origin = Origin("p", "r", "w", 0, 0, STARTED, 1, 3)
    event = LogBatch(origin, np.array([1, 2, 3]), np.array([5, 6, 7]), np.array([1, 2, 1]), ("a", "b", "c"))
    found = rows(tables.log_tables([Kept(event, np.array([False, True, True])), Kept(event)])["logs"])
    assert [(row["stream"], row["line"], row["sequence"]) for row in found] == [
        ("stderr", "b", 2),
        ("stdout", "c", 3),
        ("stdout", "a", 1),
        ("stderr", "b", 2),
        ("stdout", "c", 3),
    ]


def test_values_of_a_run_that_are_numbers_are_numbers_too() -> None:
    config = {
        "lr": "0.1",
        "n": "3",
        "s": '"3"',
        "t": "true",
        "big": "1" + "0" * 400,
        "nan": "NaN",
        "l": "[1]",
        "no": None,
    }
    event = RunEvent(Origin("p", "r", "w", 0, 0, STARTED, 4, 4), "update", 9, True, config=config)
    found = tables.run_tables([Kept(event)])
    values = {row["key"]: row["number"] for row in rows(found["run_values"])}
    assert str(values.pop("nan")) == "nan"
    assert values == {"lr": 0.1, "n": 3.0, "s": None, "t": None, "big": None, "l": None, "no": None}
    (row,) = rows(found["run_events"])
    assert (row["kind"], row["tags"], row["tags_set"], row["attempt_started"]) == ("update", [], 0, STARTED)


def test_an_alert_becomes_a_row_of_its_own() -> None:
    bare = Alert("p", "r", "a", 0, "nan", "loss", "firing", "critical", "t", "x", STARTED + 5, STARTED, "m")
    full = Alert(
        "\ud55c\uad6d", "r", "a", 1, "rule", "", "resolved", "info", "t", "x", STARTED + 9, STARTED, "m", step=-3,
        value=float("nan"), rank=2, host="h", gpu="GPU-1", silenced=True, labels={"team": "vision", "a": "b"},
    )  # fmt: skip
    assert tables.alert_rows(bare) == tables.kept_rows(Kept(bare), tables.alert_rows) == 1
    found = tables.alert_tables([Kept(bare), Kept(full)])
    assert set(found) == {"alert_events"}
    first, second = rows(found["alert_events"])
    assert first == {
        "project": "p", "run_id": "r", "alert_id": "a", "sequence": 0, "kind": "nan", "subject": "loss",
        "state": "firing", "severity": "critical", "title": "t", "text": "x", "ts": STARTED + 5, "started": STARTED,
        "source": "m", "step": None, "value": None, "rank": None, "host": "", "gpu": "", "silenced": False,
        "label_names": [], "label_values": [],
    }  # fmt: skip
    assert (second["project"], second["step"], str(second["value"]), second["rank"], second["silenced"]) == (
        ("\ud55c\uad6d", -3, "nan", 2, True)
    )
    assert (second["label_names"], second["label_values"]) == (["team", "a"], ["vision", "b"])
