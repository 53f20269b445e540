"""The report in a real browser, from a file: it draws, it answers, and nothing that a run is called can run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from pulsetrain_consumers.reading.model import AlertRecord
from pulsetrain_consumers.reading.report.model import Report
from pulsetrain_consumers.reading.report.render import render
from tests.chromium import CHROMIUM, headless
from tests.report_runs import alert, curve, report, run
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium and chromedriver are not installed"),
]

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>'\"`${alert(3)}__proto__"
# How many distinct colours are on a canvas: none where nothing was drawn.
COLOURS = """
const canvas = document.querySelectorAll('.card canvas')[arguments[0]];
const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
const seen = new Set();
for (let i = 0; i < data.length; i += 4)
  if (data[i + 3] > 200) seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
return seen.size;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    with headless(tmp_path_factory.mktemp("profile"), 1400, 1000) as driver:
        yield driver


def opened(browser: WebDriver, tmp_path: Path, shown: Report) -> None:
    """Opens the report from a file and waits for its first chart."""
    file = tmp_path / "report.html"
    file.write_text(render(shown), encoding="utf-8")
    browser.get(file.as_uri())
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, ".card canvas"), 10, "the first chart")


def errors(browser: WebDriver) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


def y_range(browser: WebDriver, metric: str) -> list[float]:
    return browser.execute_script(
        "const c = [...Charts.alive].find((c) => c.metric === arguments[0]).plot.scales.y; return [c.min, c.max]",
        metric,
    )


def training() -> Report:
    """Three runs of a loss that falls, one of which diverges; a curve in buckets; metrics in sections."""
    made = []
    for number in range(3):
        loss = (number + 1) * np.exp(-np.arange(300) / 60) + 0.01 + np.random.default_rng(number).normal(0, 0.005, 300)
        diverged = np.where(np.arange(300) > 200, np.nan, loss) if number == 2 else loss
        bucketed = curve("train/grad_norm", np.abs(loss), width=8, spike=50.0)
        made.append(run(number, [curve("train/loss", diverged), bucketed, curve("train/lr", loss)], text="mlp"))
    return report(*made, title="training")


def test_the_report_draws_without_an_error(browser: WebDriver, tmp_path: Path):
    opened(browser, tmp_path, training())
    assert browser.execute_script(COLOURS, 0) > 10
    assert browser.execute_script("return Charts.alive.size") >= 3
    titles = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "main > section > h2")]
    assert titles == ["Runs", "Charts", "Hardware", "Config", "Summary", "Details and consoles"]
    groups = [one.text for one in browser.find_elements(By.CSS_SELECTOR, ".group > summary > span:first-child")]
    assert groups == ["train", "GPU", "Host"]
    assert errors(browser) == []


def with_alerts(shown: Report, number: int, *alerts: AlertRecord) -> Report:
    """The report, with alerts about its run of that number."""
    runs = [replace(one, alerts=alerts) if index == number else one for index, one in enumerate(shown.runs)]
    return replace(shown, runs=runs)


def test_alerts_are_listed_and_stand_on_the_curves_that_they_are_about(browser: WebDriver, tmp_path: Path):
    over = alert("stall", "", lasted=31)
    shown = with_alerts(training(), 2, over, alert("nan", "train/loss", text="NaN at step 201", step=201))
    opened(browser, tmp_path, shown)
    titles = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "main > section > h2")]
    assert titles[:3] == ["Runs", "Alerts", "Charts"]
    rows = [one.text.split("\n") for one in browser.find_elements(By.CSS_SELECTOR, "table.alerts tbody tr")]
    assert [row[:2] for row in rows] == [["nan: train/loss", "critical · nan"], ["stall:", "critical · stall"]]
    assert rows[0][-1].endswith("still fires")
    assert rows[1][-1] == "the run has ended"
    on = "return [...Charts.alive].filter((c) => Alerts.on(c.metric, c.curves).length).map((c) => c.metric)"
    assert browser.execute_script(on) == ["train/loss"]
    box = "[...Charts.alive].find((c) => c.metric === 'train/loss')"
    browser.execute_script(
        f"const c = {box}; c.plot.setCursor({{left: c.plot.valToPos(201, 'x'), top: 9}}); Tooltip.show(c)"
    )
    assert "NaN at step 201" in browser.find_element(By.ID, "tooltip").text
    browser.find_element(By.CSS_SELECTOR, "#legend .swatch[data-run='2']").click()
    assert browser.execute_script(on) == []
    assert errors(browser) == []


def test_an_alert_of_a_rule_stands_on_its_metric_and_a_critical_one_of_the_run_on_all_its_curves(browser, tmp_path):
    rule = alert("rule", "is: it: train/grad_norm", step=300)
    opened(browser, tmp_path, with_alerts(training(), 1, rule, alert("stall", "", text="no step", step=250)))
    on = "return [...Charts.alive].map((c) => [c.metric, Alerts.on(c.metric, c.curves).map(([a, x]) => [a.kind, x])])"
    found = dict(browser.execute_script(on))
    assert found["train/grad_norm"] == [["rule", 300], ["stall", 250]]
    assert found["train/loss"] == [["stall", 250]]
    assert errors(browser) == []


def test_a_crash_that_goes_on_stands_at_the_last_step_of_its_run(browser: WebDriver, tmp_path: Path):
    opened(browser, tmp_path, with_alerts(training(), 1, alert("crashed", "", text="it was killed", step=250)))
    on = "return [...Charts.alive].flatMap((c) => Alerts.on(c.metric, c.curves).map(([, x]) => x))"
    last = int(max(one.last_steps.max() for one in training().runs[1].curves))
    assert set(browser.execute_script(on)) == {last}


def test_alerts_that_have_no_place_in_the_report_are_spoken_of(browser: WebDriver, tmp_path: Path):
    shown = replace(with_alerts(training(), 0, alert("stall", "")), more_alerts=True)
    opened(browser, tmp_path, shown)
    assert "pulsetrain alerts shows all" in browser.find_element(By.ID, "alerts").text


def test_a_peak_inside_a_bucket_is_within_the_axis(browser: WebDriver, tmp_path: Path):
    opened(browser, tmp_path, training())
    assert y_range(browser, "train/grad_norm")[1] > 50
    browser.find_element(By.ID, "switch-outliers").click()
    assert y_range(browser, "train/grad_norm")[1] < 10


def test_a_run_is_hidden_everywhere_by_one_click(browser: WebDriver, tmp_path: Path):
    opened(browser, tmp_path, training())
    before = y_range(browser, "train/loss")[1]
    browser.find_element(By.CSS_SELECTOR, "#legend .swatch[data-run='2']").click()
    assert y_range(browser, "train/loss")[1] < before
    shown = "return [...Charts.alive].map((c) => c.curves.map((k, i) => [k.run, c.plot.series[i + 1].show]).flat())"
    assert all(pairs[4:6] == [2, False] and pairs[0:2] == [0, True] for pairs in browser.execute_script(shown))
    assert "off" in browser.find_element(By.CSS_SELECTOR, "table.runs tr[data-run='2']").get_attribute("class")
    assert errors(browser) == []


def test_log_axes_smoothing_and_the_time_axis_change_what_is_drawn(browser: WebDriver, tmp_path: Path):
    opened(browser, tmp_path, training())
    browser.find_element(By.ID, "switch-log").click()
    assert browser.execute_script("return [...Charts.alive].every((c) => c.plot.scales.y.distr === 3)")
    assert y_range(browser, "train/loss")[0] > 0
    line = "return [...Charts.alive].find((c) => c.metric === 'train/loss').laid[0].line.slice(100, 140)"
    rough = np.array(browser.execute_script(f"return Array.from((() => {{ {line} }})())"))
    browser.execute_script(
        "const s = document.getElementById('smoothing'); s.value = 0.7; s.dispatchEvent(new Event('input'))"
    )
    fine = np.array(browser.execute_script(f"return Array.from((() => {{ {line} }})())"))
    assert np.abs(np.diff(fine, 2)).mean() < np.abs(np.diff(rough, 2)).mean() / 3
    browser.find_element(By.CSS_SELECTOR, "[data-value='time']").click()
    last = browser.execute_script("return Math.max(...[...Charts.alive].map((c) => c.plot.scales.x.max))")
    assert last == pytest.approx(300 * 8 * 0.1, rel=0.1)
    assert errors(browser) == []


def test_zooming_one_chart_zooms_all_and_a_double_click_zooms_out(browser: WebDriver, tmp_path: Path):
    opened(browser, tmp_path, training())
    plot = browser.find_element(By.CSS_SELECTOR, ".u-over")
    ActionChains(browser).move_to_element_with_offset(plot, -50, 0).click_and_hold().move_by_offset(
        60, 0
    ).release().perform()
    ranges = "return [...Charts.alive].map((c) => [c.plot.scales.x.min, c.plot.scales.x.max].join())"
    zoomed = browser.execute_script(ranges)
    assert len(set(zoomed)) == 1
    assert browser.execute_script("return State.chosen.range !== null")
    ActionChains(browser).double_click(plot).perform()
    assert browser.execute_script("return State.chosen.range === null")
    assert browser.execute_script(ranges) != zoomed


def test_the_cursor_tells_the_values(browser: WebDriver, tmp_path: Path):
    opened(browser, tmp_path, training())
    ActionChains(browser).move_to_element(browser.find_element(By.CSS_SELECTOR, ".u-over")).perform()
    tooltip = browser.find_element(By.ID, "tooltip")
    wait_for(tooltip.is_displayed, 5, "the tooltip")
    assert tooltip.text.startswith("step ")
    assert "mlp 0" in tooltip.text


def test_sorting_and_searching_leave_what_was_asked_for(browser: WebDriver, tmp_path: Path):
    opened(browser, tmp_path, training())
    names = lambda: [one.text for one in browser.find_elements(By.CSS_SELECTOR, "table.runs tbody th a")]  # noqa: E731
    assert names() == ["mlp 0", "mlp 1", "mlp 2"]
    head = next(
        one for one in browser.find_elements(By.CSS_SELECTOR, "table.runs thead button") if one.text == "val/accuracy"
    )
    head.click()
    assert names() == ["mlp 2", "mlp 1", "mlp 0"]
    assert [one.text for one in browser.find_elements(By.CSS_SELECTOR, "td.best")] == ["0.92", "0.48"]
    browser.find_element(By.ID, "search").send_keys("grad")
    shown = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#charts .card h3") if one.is_displayed()]
    assert shown == ["grad_norm"]


def test_hostile_names_and_values_are_text(browser: WebDriver, tmp_path: Path):
    hostile = [
        run(n, [curve(HOSTILE, np.arange(9.0)), curve("__proto__", np.arange(9.0))], text=HOSTILE, lines=(HOSTILE,))
        for n in range(2)
    ]
    said = alert(HOSTILE, HOSTILE, text=HOSTILE, step=3)
    opened(browser, tmp_path, with_alerts(report(*hostile, title=HOSTILE), 0, said))
    browser.execute_script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, ".console .line"), 5, "the console")
    assert browser.title == HOSTILE
    assert browser.execute_script("return window.hacked === undefined && !document.querySelector('img')")
    assert browser.find_element(By.CSS_SELECTOR, ".console .line").text == HOSTILE
    assert browser.find_element(By.CSS_SELECTOR, "td.said").text == HOSTILE
    assert browser.execute_script(COLOURS, 0) > 3
    assert errors(browser) == []


def test_a_script_that_got_into_the_page_would_be_refused(browser: WebDriver, tmp_path: Path):
    opened(browser, tmp_path, training())
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s);"
        "const i = document.createElement('div'); i.setAttribute('onclick', 'window.hacked = 2');"
        "document.body.append(i); i.click()"
    )
    assert browser.execute_script("return window.hacked === undefined")
    assert any("Content Security Policy" in message for message in errors(browser))


def test_one_run_and_a_hundred_runs_and_five_hundred_metrics_are_shown(browser: WebDriver, tmp_path: Path):
    opened(browser, tmp_path, report(run(0, [curve("loss", np.arange(5.0))])))
    assert not browser.find_element(By.ID, "legend").is_displayed()
    many = [curve(f"layer{n // 50}/w{n}", np.sin(np.arange(40) / 9 + n)) for n in range(500)]
    opened(browser, tmp_path, report(run(0, many), run(1, many)))
    assert len(browser.find_elements(By.CSS_SELECTOR, "#charts .card")) == 500
    assert browser.execute_script("return Charts.alive.size") < 60
    crowd = [run(n, [curve("loss", np.sin(np.arange(40) / 9 + n))]) for n in range(100)]
    opened(browser, tmp_path, report(*crowd))
    assert len(browser.find_elements(By.CSS_SELECTOR, "#legend .entry")) == 100
    assert errors(browser) == []


def test_a_narrow_window_scrolls_in_one_direction_alone(browser: WebDriver, tmp_path: Path):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        opened(browser, tmp_path, training())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
