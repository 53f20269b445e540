"""What the server reads out of a statement before the engine gets it."""

import pytest

from pulsetrain_local.clickhouse.statements import (
    MultipleStatements,
    first_word,
    for_the_engine,
    format_of,
    insert_of_blocks,
    insert_of_text,
)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("select 1", "SELECT"),
        ("\n-- a\n/* b ; \n */ # c\n#!d\n ( (Select 1))", "SELECT"),
        ("WITH x AS (SELECT 1) SELECT * FROM x", "WITH"),
        ("", ""),
        ("/* never closed", ""),
    ],
)
def test_the_first_word_is_found_behind_comments_and_brackets(text: str, word: str) -> None:
    assert first_word(text) == word


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("SELECT 1 FORMAT JSON", "SELECT 1"),
        ("SELECT 1 format JSON ;\n", "SELECT 1"),
        ("SELECT 1 INTO OUTFILE 'x.csv' FORMAT CSV", "SELECT 1"),
        ("SELECT 1 INTO OUTFILE 'x.csv' AND STDOUT COMPRESSION 'gzip' LEVEL 3", "SELECT 1"),
        ("SELECT 1 FORMAT JSON SETTINGS max_threads = 1", "SELECT 1 SETTINGS max_threads = 1"),
        ("SHOW TABLES FORMAT Vertical", "SHOW TABLES"),
        ("SELECT ' FORMAT JSON;' -- FORMAT x;", "SELECT ' FORMAT JSON;' -- FORMAT x;"),
        ("SELECT * FROM format f", "SELECT * FROM format f"),
        ("SELECT format(JSON) FROM `FORMAT` WHERE (x = ';')", "SELECT format(JSON) FROM `FORMAT` WHERE (x = ';')"),
        ("SELECT 1 AS format", "SELECT 1 AS format"),
        ("INSERT INTO t FORMAT TSV\n1\tit's; SELECT\n", "INSERT INTO t FORMAT TSV\n1\tit's; SELECT\n"),
        ("INSERT INTO t SELECT 1 FORMAT Null", "INSERT INTO t SELECT 1"),
    ],
)
def test_what_is_the_clients_business_is_cut_out_and_nothing_else(text: str, cut: str) -> None:
    assert " ".join(for_the_engine(text).split()) == " ".join(cut.split())


def test_a_second_statement_is_refused_and_a_comment_after_the_first_is_not() -> None:
    with pytest.raises(MultipleStatements):
        for_the_engine("SELECT 1; DROP TABLE t")
    assert for_the_engine("SELECT 1;; -- the end; really").strip() == "SELECT 1"


@pytest.mark.parametrize(
    ("text", "head", "sample"),
    [
        ("INSERT INTO t VALUES", "INSERT INTO t", "SELECT * FROM t"),
        ("/* a\nb */ insert into t values ;", "insert into t", "SELECT * FROM t"),
        ("INSERT INTO db.t (a, `b c`) VALUES", "INSERT INTO db.t (a, `b c`)", "SELECT a, `b c` FROM db.t"),
        ("INSERT INTO t FORMAT Native", "INSERT INTO t", "SELECT * FROM t"),
        ("INSERT INTO TABLE values VALUES", "INSERT INTO TABLE values", "SELECT * FROM values"),
        ("INSERT INTO t (* EXCEPT(b)) VALUES", "INSERT INTO t (* EXCEPT(b))", "SELECT * EXCEPT(b) FROM t"),
        ("INSERT INTO t (a) SETTINGS x = 1 VALUES", "INSERT INTO t (a) SETTINGS x = 1", "SELECT a FROM t"),
        ("INSERT INTO t FORMAT TSV SETTINGS x = 1", "INSERT INTO t SETTINGS x = 1", "SELECT * FROM t"),
        (
            "INSERT INTO FUNCTION f('x', (1)) (a) VALUES",
            "INSERT INTO FUNCTION f('x', (1)) (a)",
            "SELECT a FROM f('x', (1))",
        ),
    ],
)
def test_an_insert_whose_rows_come_as_blocks_is_known_by_its_end(text: str, head: str, sample: str) -> None:
    insert = insert_of_blocks(text)
    assert insert is not None
    assert (insert.head, insert.sample) == (head, sample)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "INSERT INTO t VALUES (1, 2)",
        "INSERT INTO t FORMAT TSV\n1\t2\n",
        "INSERT INTO t SELECT 1",
        "INSERT INTO t (a) WITH 1 AS x SELECT x",
        "INSERT INTO t (SELECT 1)",
        "INSERT INTO t",
        "INSERT",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
        "-- INSERT INTO t VALUES\nSELECT 1",
        "",
    ],
)
def test_every_other_statement_is_whole(text: str) -> None:
    assert insert_of_blocks(text) is None


def test_the_old_client_sends_blocks_though_the_rows_stand_in_the_text() -> None:
    insert = insert_of_blocks("INSERT INTO t VALUES (1); SELECT 2", blocks_always_follow=True)
    assert insert is not None
    assert insert.head == "INSERT INTO t"


@pytest.mark.parametrize(
    ("text", "head", "name", "data"),
    [
        ("INSERT INTO t FORMAT CSV", "INSERT INTO t", "CSV", ""),
        ("INSERT INTO t FORMAT CSV\n1,2\n", "INSERT INTO t", "CSV", "1,2\n"),
        ('INSERT INTO t FORMAT JSONEachRow {"a":1}', "INSERT INTO t", "JSONEachRow", '{"a":1}'),
        ("INSERT INTO t FORMAT TSV\n\n", "INSERT INTO t", "TSV", "\n"),
        ("INSERT INTO t FORMAT RowBinary\n  ", "INSERT INTO t", "RowBinary", "  "),
        ("INSERT INTO t (a, b) VALUES (1, 2)", "INSERT INTO t (a, b)", "Values", " (1, 2)"),
        ("INSERT INTO t SETTINGS x = 1 VALUES", "INSERT INTO t SETTINGS x = 1", "Values", ""),
        ("INSERT INTO t FORMAT CSV SETTINGS x = 1", "INSERT INTO t SETTINGS x = 1", "CSV", ""),
    ],
)
def test_over_http_rows_begin_behind_the_head_of_an_insert(text: str, head: str, name: str, data: str) -> None:
    insert = insert_of_text(text)
    assert insert is not None
    assert (insert.head, insert.format, text[insert.data :]) == (head, name, data)


@pytest.mark.parametrize(
    "text", ["INSERT INTO t SELECT 1 FORMAT CSV", "SELECT 1", "INSERT INTO t", "INSERT INTO t FORMAT"]
)
def test_over_http_no_rows_follow_other_statements(text: str) -> None:
    assert insert_of_text(text) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SELECT 1 FORMAT JSON", "JSON"),
        ("SELECT 1 format csv SETTINGS max_threads = 1;", "csv"),
        ("SELECT 'FORMAT JSON'", None),
        ("SELECT (SELECT 1 FORMAT JSON)", None),
        ("SELECT format FROM t", None),
        ("SELECT 1 -- FORMAT JSON", None),
    ],
)
def test_the_format_of_a_result_is_the_one_at_the_end_of_its_query(text: str, name: str | None) -> None:
    assert format_of(text) == name


def test_hostile_text_is_read_in_linear_time() -> None:
    for text in ("'" + "\\'" * 200_000, "/*" * 200_000, "(" * 200_000 + ";", "$a$" * 2000, "INSERT INTO t (" * 50_000):
        try:
            for_the_engine(text + ";")
        except MultipleStatements:
            continue
