"""What the report's page carries: small, exact where it must be, and never markup."""

import base64
import json
import re

import numpy as np
import pytest

from pulsetrain_consumers.reading.report.payload import dump, json_value, number_array, payload
from pulsetrain_consumers.reading.report.render import SCRIPTS, render
from tests.report_runs import curve, report, run

HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\"'`\u2028{{7*7}}"


def read(written) -> np.ndarray:
    if isinstance(written, list):
        start, stride, count = written
        return start + stride * np.arange(count)
    (kind,) = written.keys() & {"f4", "f8", "u1", "u2", "u4"}
    return np.frombuffer(base64.b64decode(written[kind]), dtype=f"<{kind}").astype(float) + written.get("from", 0)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(0, 1000, 3),
        np.array([7]),
        np.array([-5, 0, 1]),
        np.array([0, 1, 1 << 20]),
        np.array([0, 1, 1 << 40]),
        np.array([5, 5, 5]),
    ],
)
def test_whole_numbers_come_back_exactly(values):
    np.testing.assert_array_equal(read(json.loads(json.dumps(number_array(values)))), values)


def test_regular_steps_take_no_room():
    assert number_array(np.arange(1_000_000)) == [0, 1, 1_000_000]


@pytest.mark.parametrize("values", [[1e300, 1.0], [1e-300, 1.0], [np.nan, 2.5]])
def test_floats_that_32_bits_cannot_hold_are_written_in_64(values):
    np.testing.assert_allclose(read(number_array(np.array(values))), values, rtol=1e-6)


def test_the_extremes_of_a_curve_are_exact():
    data = payload(report(run(0, [curve("loss", np.linspace(2, 1, 100), width=64, spike=123456.789)])))
    (written,) = data["curves"]
    assert written["high"] == [2 - 50 / 99 + 123456.789, 50 * 64 + 63]
    assert written["points"] == 6400


def test_curves_of_the_same_calls_share_an_axis():
    data = payload(report(run(0, [curve(name, np.ones(50)) for name in "abc"])))
    assert [one["axis"] for one in data["curves"]] == [0, 0, 0]
    assert len(data["axes"]) == 1


def test_numbers_that_json_cannot_say_are_named():
    assert json_value(float("nan")) == {"number": "NaN"}
    assert json_value(1 << 60) == str(1 << 60)
    assert json_value({"a": [1]}) == {"json": '{"a": [1]}'}
    assert len(json_value("x" * 10_000)) < 3_000


def test_nothing_in_the_data_can_end_its_element():
    data = payload(report(run(0, [curve(HOSTILE, np.ones(3))], text=HOSTILE, lines=(HOSTILE,)), title=HOSTILE))
    text = dump(data)
    assert "<" not in text
    assert ">" not in text
    assert json.loads(text)["title"] == HOSTILE


def test_the_page_has_only_its_own_scripts_and_asks_for_nothing():
    page = render(report(run(0, [curve(HOSTILE, np.ones(3))], text=HOSTILE, lines=(HOSTILE,)), title=HOSTILE))
    assert page.count("<script") == len(SCRIPTS) + 1
    assert "alert(1)</script>" not in page
    assert "default-src &#39;none&#39;" in page
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)


def test_a_report_of_no_runs_is_a_page():
    assert "<html" in render(report())
