"""Macros and variables, by examples of what the plugin and Grafana make of them."""

import pytest

from tests.grafana_macros import Range, expanded, interpolated

OVER = Range(1_700_000_000, 1_700_003_600, 15)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("$__fromTime $__toTime", "toDateTime(1700000000) toDateTime(1700003600)"),
        ("$__fromTime_ms", "fromUnixTimestamp64Milli(1700000000000)"),
        ("$__timeFilter(ts)", "ts >= toDateTime(1700000000) AND ts <= toDateTime(1700003600)"),
        ("$__timeFilter(max(a, b))", "max(a, b) >= toDateTime(1700000000) AND max(a, b) <= toDateTime(1700003600)"),
        ("$__timeInterval(ts) x", "toStartOfInterval(toDateTime(ts), INTERVAL 15 second) x"),
        ("$__timeInterval_ms(ts)", "toStartOfInterval(toDateTime64(ts, 3), INTERVAL 15000 millisecond)"),
        ("rows / $__interval_s", "rows / 15"),
        ("$__dateFilter(d)", "d >= toDate('2023-11-14') AND d <= toDate('2023-11-14')"),
        ("'$__all'", "'$__all'"),
    ],
)
def test_macros_become_what_the_plugin_makes_of_them(sql: str, expected: str) -> None:
    assert expanded(sql, OVER) == expected


@pytest.mark.parametrize(
    "sql", ["$__timeFilter()x", "$__timeFilter(a, b)", "$__timeFilter(a", "$__fromTimes", "$__timeGroup(a)"]
)
def test_what_the_plugin_would_refuse_or_leave_is_an_error(sql: str) -> None:
    if sql == "$__timeFilter()x":
        assert expanded(sql, OVER).startswith(" >= ")  # one empty argument, as Go's parser has it
        return
    with pytest.raises(ValueError, match=r"argument|no macro"):
        expanded(sql, OVER)


def test_variables_come_as_parameters_of_a_url() -> None:
    chosen = {"run": ["a b", "it's\\", "한국어"], "p": ["$__all"]}
    assert interpolated("'${run:queryparam}'", chosen) == (
        "'var-run=a%20b&var-run=it%27s%5C&var-run=%ED%95%9C%EA%B5%AD%EC%96%B4'"
    )
    assert interpolated("${p:queryparam}", chosen) == "var-p=$__all"


@pytest.mark.parametrize("sql", ["$run", "${run}", "${run:singlequote}", "${run:raw}"])
def test_a_variable_that_is_not_encoded_is_an_error(sql: str) -> None:
    with pytest.raises(ValueError, match="not encoded"):
        interpolated(sql, {"run": ["a"]})
    with pytest.raises(KeyError):
        interpolated("${walk:queryparam}", {"run": ["a"]})
