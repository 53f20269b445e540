"""Parameters of queries: a value stays a value, whatever it holds."""

from datetime import UTC, datetime

import pytest

from pulsetrain_consumers.reading.parameters import ParameterError, bind, statements
from pulsetrain_schemas.sql import literal


def test_a_string_is_quoted_and_escaped():
    assert bind("SELECT {a:String}", {"a": "it's \\ 한글\n"}) == "SELECT 'it\\'s \\\\ 한글\n'"


def test_a_nul_does_not_end_the_query():
    assert literal("a\0b") == "'a\\0b'"


def test_a_value_that_looks_like_a_parameter_is_left_alone():
    assert bind("SELECT {a:String}, {b:String}", {"a": "{b:String}", "b": "x"}) == "SELECT '{b:String}', 'x'"


def test_what_stands_in_quotes_and_comments_is_no_parameter():
    sql = "SELECT '{a:Int8}', \"{b:Int8}\", `{c:Int8}`, $x${d:Int8};$x$ -- {e:Int8}\n/* {f:Int8}; */ # {g:Int8}"
    assert bind(sql) == sql
    assert statements(sql) == [sql]


@pytest.mark.parametrize(
    ("value", "kind", "literal"),
    [
        (5, "UInt8", "CAST(5 AS UInt8)"),
        ("5", "UInt8", "CAST('5' AS UInt8)"),
        (float("nan"), "Float64", "CAST(nan AS Float64)"),
        (float("-inf"), "Float64", "CAST(-inf AS Float64)"),
        (None, "Nullable(String)", "CAST(NULL AS Nullable(String))"),
        (True, "Bool", "CAST(true AS Bool)"),
        (["a'", "b"], "Array(String)", "CAST(['a\\'', 'b'] AS Array(String))"),
        ([("p", "r")], "Array(Tuple(String, String))", "CAST([('p', 'r')] AS Array(Tuple(String, String)))"),
        (datetime(2026, 1, 2, tzinfo=UTC), "DateTime64(6)", "CAST('2026-01-02 00:00:00.000000' AS DateTime64(6))"),
        ("a`b", "Identifier", "`a\\`b`"),
    ],
)
def test_values_become_literals_of_their_type(value, kind, literal):
    assert bind(f"{{x:{kind}}}", {"x": value}) == literal


def test_a_missing_and_an_unused_value_are_named():
    with pytest.raises(ParameterError, match=r"\{a:String\} has no value"):
        bind("SELECT {a:String}")
    with pytest.raises(ParameterError, match="no parameter called b"):
        bind("SELECT 1", {"b": 1})


def test_statements_are_told_apart_by_semicolons_outside_quotes():
    assert statements("SELECT ';' ; -- nothing\n ; SELECT 2;") == ["SELECT ';' ", " SELECT 2"]
