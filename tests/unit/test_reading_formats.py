"""Every format writes NaN, NULL, times, arrays and hostile text rightly."""

import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pulsetrain_consumers.reading.formats import FORMATS, writer

MOMENT = datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=UTC)
UUID_ = UUID("61f0c404-5cb3-11e7-907b-a6006ad3dba0")
COLUMNS = [
    ("t", "String"),
    ("f", "Float64"),
    ("n", "Nullable(Int64)"),
    ("at", "DateTime64(6, 'UTC')"),
    ("a", "Array(Float64)"),
    ("u", "UUID"),
    ("d", "Decimal(18, 2)"),
    ("b", "Bool"),
]
ROWS = [
    ('say "hi", a|b\n\ttab', float("nan"), None, MOMENT, [1.0, float("inf")], UUID_, Decimal("1.50"), True),
    ("plain", float("-inf"), 2**62, MOMENT, [], UUID_, Decimal("-2.00"), False),
]


def written(name: str, rows=ROWS, *, into_file: bool = False) -> bytes:
    out = io.BytesIO()
    made = writer(name, out, into_file=into_file)
    made.begin(COLUMNS)
    for row in rows:
        made.rows([row])
    made.end()
    return out.getvalue()


def test_csv_quotes_and_keeps_nan():
    text = written("csv").decode()
    assert text.splitlines()[0] == "t,f,n,at,a,u,d,b"
    assert '"say ""hi"", a|b\n\ttab",nan,,2026-11-23 12:00:00.250000,"[1.0, ""inf""]",61f0c404' in text
    assert "plain,-inf,4611686018427387904," in text


def test_tsv_escapes_as_clickhouse_does():
    line = written("tsv").decode().splitlines()[1]
    assert line.startswith('say "hi", a|b\\n\\ttab\tnan\t\\N\t2026-11-23 12:00:00.250000\t')


@pytest.mark.parametrize("name", ["json", "jsonl"])
def test_json_is_valid_and_says_what_has_no_number(name):
    text = written(name).decode()
    rows = json.loads(text) if name == "json" else [json.loads(line) for line in text.splitlines()]
    assert [row["f"] for row in rows] == ["nan", "-inf"]
    assert rows[0]["a"] == [1.0, "inf"]
    assert rows[0]["n"] is None
    assert rows[1]["n"] == 2**62
    assert rows[0]["t"] == ROWS[0][0]


def test_markdown_keeps_a_cell_in_its_column():
    lines = written("markdown").decode().splitlines()
    assert lines[1] == "| --- | ---: | ---: | --- | --- | --- | ---: | --- |"
    assert lines[2].startswith('| say "hi", a\\|b<br>\ttab | nan |  |')


@pytest.mark.parametrize(("name", "into_file"), [("arrow", True), ("arrow", False), ("parquet", True)])
def test_columnar_formats_keep_types_and_values(name, into_file):
    data = written(name, into_file=into_file)
    if name == "parquet":
        table = pq.read_table(io.BytesIO(data))
    else:
        opened = pa.ipc.open_file(io.BytesIO(data)) if into_file else pa.ipc.open_stream(io.BytesIO(data))
        table = opened.read_all()
    assert str(table.schema.field("at").type) == "timestamp[us, tz=UTC]"
    assert str(table.schema.field("a").type).startswith("list<")
    rows = table.to_pylist()
    assert rows[0]["f"] != rows[0]["f"]
    assert rows[0]["at"] == MOMENT
    assert rows[0]["u"] == str(UUID_)
    assert rows[1]["n"] == 2**62
    assert rows[0]["d"] == Decimal("1.50")


def test_a_table_shows_control_characters_instead_of_obeying_them():
    text = written("table", [("\x1b[31mred\x07", 1.0, None, MOMENT, [], UUID_, Decimal(1), True)]).decode()
    assert "\x1b" not in text
    assert "\\x1b[31mred\\x07" in text
    assert "NULL" in text


@pytest.mark.parametrize("name", FORMATS)
def test_no_rows_make_a_whole_document(name):
    data = written(name, [])
    if name == "json":
        assert json.loads(data) == []
    if name == "parquet":
        assert pq.read_table(io.BytesIO(data)).num_rows == 0
