"""A real Grafana, started and provisioned by the local stack: every panel of every dashboard in a browser.

It is looked for where PULSETRAIN_GRAFANA_HOME says, with the ClickHouse plugin in its plugin folder (one that was built
and not signed needs GF_PLUGINS_ALLOW_LOADING_UNSIGNED_PLUGINS). Pictures of all that was seen are left in .grafana/.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import requests
from selenium.webdriver.remote.webdriver import WebDriver

from pulsetrain_local.grafana import OF_PROMETHEUS, PLUGIN
from pulsetrain_schemas.addresses import ClickHouseAddress
from tests.chromium import CHROMIUM, headless
from tests.grafana_files import FILES, loaded, panels
from tests.grafana_macros import Range
from tests.grafana_stack import PROJECT, RUNS, filled_stack
from tests.local_servers import SmtpServer, smtp_server
from tests.prometheus import PROMETHEUS, with_prometheus
from tests.stack_fixture import Stack
from tests.waiting import wait_for

GRAFANA_HOME = os.environ.get("PULSETRAIN_GRAFANA_HOME", "")
PICTURES = Path(__file__).parents[2] / ".grafana"

pytestmark = [
    pytest.mark.stack,
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not GRAFANA_HOME, reason="PULSETRAIN_GRAFANA_HOME does not say where a Grafana is"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH"),
]

LOG_IN = """
const [user, password, done] = arguments;
const body = JSON.stringify({user, password});
fetch("/login", {method: "POST", headers: {"Content-Type": "application/json"}, body}).then((r) => done(r.status));
"""
EXPAND = """
const closed = [...document.querySelectorAll('[aria-label="Expand row"]')];
closed.forEach((one) => one.click());
return closed.length;
"""
# By title what a panel shows: its text, and whether it loads or has failed.
SEEN = """
return [...document.querySelectorAll('section[data-testid^="data-testid Panel header"]')].map((panel) => ({
  title: panel.dataset.testid.replace("data-testid Panel header ", ""),
  text: panel.querySelector('[data-testid="data-testid panel content"]')?.innerText.trim() ?? "",
  drawn: panel.querySelector("canvas, table, [role=table], [data-testid='data-testid panel content'] *") !== null,
  loads: panel.querySelector('[aria-label="Panel loading bar"]') !== null,
  failed: panel.querySelector('[data-testid="data-testid Panel status error"]') !== null,
}));
"""
NOTHING = {"–", "No data", ""}


@dataclass(frozen=True, slots=True)
class Seen:
    """A browser that is logged in, at which address, and the time range with something in it."""

    browser: WebDriver
    address: str
    over: Range
    stack: Stack
    mail: SmtpServer


@pytest.fixture(scope="module")
def grafana(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    directory = tmp_path_factory.mktemp("grafana")
    with (
        smtp_server() as mail,
        filled_stack(directory, **_variables(mail), **with_prometheus()) as (stack, over),
        headless(directory / "profile", 1600, 5000) as browser,
    ):
        browser.set_script_timeout(30)
        yield Seen(browser, _logged_in(browser, stack), over, stack, mail)


def _variables(mail: SmtpServer) -> dict[str, str]:
    return {
        "PULSETRAIN_GRAFANA_HOME": GRAFANA_HOME,
        "PULSETRAIN_ALERT_EMAIL": "oncall@example.com",
        "GF_SMTP_ENABLED": "true",
        "GF_SMTP_HOST": f"127.0.0.1:{mail.port}",
        "GF_SMTP_STARTTLS_POLICY": "NoStartTLS",
    }


def _logged_in(browser: WebDriver, stack: Stack) -> str:
    url = urlsplit(stack.addresses["PULSETRAIN_GRAFANA"])
    address = f"http://{url.hostname}:{url.port}"
    browser.get(f"{address}/login")
    assert browser.execute_async_script(LOG_IN, url.username, url.password) == 200
    return address


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_panel_of_a_dashboard_shows_something(grafana: Seen, path: Path) -> None:
    if path.name in OF_PROMETHEUS and PROMETHEUS is None:
        pytest.skip("no prometheus is installed")
    dashboard, browser, over = loaded(path), grafana.browser, grafana.over
    own = {one["name"] for one in dashboard.get("templating", {}).get("list", ())}
    chosen = [("project", PROJECT), *(("run", run) for run in (RUNS if path.stem == "compare" else RUNS[:1]))]
    asked = "".join(f"&var-{name}={quote(value, safe='')}" for name, value in chosen if name in own)
    times = f"from={int(over.begin * 1000)}&to={int(over.end * 1000)}"
    browser.get(f"{grafana.address}/d/{dashboard['uid']}?{times}&kiosk&theme=light{asked}")
    titles = {panel["title"] for panel in panels(dashboard) if panel["type"] != "row" and "repeat" not in panel}
    # A panel for each metric, where one is repeated.
    least = len(titles) + (5 if any("repeat" in panel for panel in panels(dashboard)) else 0)

    def all_drawn() -> list[dict]:
        browser.execute_script(EXPAND)
        seen = browser.execute_script(SEEN)
        there = len(seen) >= least and titles <= {one["title"] for one in seen}
        there = there and all(one["drawn"] and not one["loads"] for one in seen)
        return seen if there and all(one["failed"] or _shows(one) for one in seen) else []

    try:
        seen = wait_for(all_drawn, 60, "a figure in each panel", 0.5)
    finally:
        PICTURES.mkdir(exist_ok=True)
        browser.save_screenshot(str(PICTURES / f"{path.stem}.png"))
        (PICTURES / f"{path.stem}.json").write_text(json.dumps(browser.execute_script(SEEN), ensure_ascii=False))
    assert [one["title"] for one in seen if one["failed"]] == []


def test_the_alert_rules_are_evaluated_and_the_dead_letter_fires(grafana: Seen) -> None:
    ask = """
    const [done] = arguments;
    fetch("/api/prometheus/grafana/api/v1/rules").then((r) => r.json()).then((it) => done(it.data.groups));
    """

    def evaluated() -> dict[str, dict]:
        groups = grafana.browser.execute_async_script(ask)
        rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
        return rules if rules and all(rule["health"] != "unknown" for rule in rules.values()) else {}

    rules = wait_for(evaluated, 150, "a first look of each rule", 1.0)
    assert {name: rule.get("lastError") for name, rule in rules.items() if rule["health"] != "ok"} == {}
    assert len(rules) >= 5

    def firing() -> list[str]:
        return [name for name, rule in evaluated().items() if rule["state"] == "firing"]

    wait_for(lambda: firing() == ["Messages could not be read"], 90, "the rule about it to fire", 1.0)
    letters = wait_for(lambda: list(grafana.mail.messages), 120, "a letter about it", 1.0)
    assert letters[0]["To"] == "oncall@example.com"
    assert "Messages could not be read" in letters[0]["Subject"]


@pytest.mark.parametrize("protocol", ["native", "http"])
def test_the_plugin_reaches_clickhouse_by_either_protocol(grafana: Seen, protocol: str) -> None:
    url = urlsplit(grafana.stack.addresses["PULSETRAIN_GRAFANA"])
    clickhouse = ClickHouseAddress.parse(grafana.stack.addresses["PULSETRAIN_CLICKHOUSE"])
    over_http = urlsplit(grafana.stack.addresses["PULSETRAIN_CLICKHOUSE_HTTP"])
    source = {
        "uid": f"by-{protocol}",
        "name": f"by {protocol}",
        "type": PLUGIN,
        "access": "proxy",
        "jsonData": {
            "host": clickhouse.host,
            "port": over_http.port if protocol == "http" else clickhouse.port,
            "protocol": protocol,
            "username": clickhouse.user,
            "defaultDatabase": clickhouse.database,
        },
        "secureJsonData": {"password": clickhouse.password},
    }
    with requests.Session() as session:
        session.auth = (str(url.username), str(url.password))
        made = session.post(f"{grafana.address}/api/datasources", json=source, timeout=30)
        assert made.status_code == 200, made.text
        health = session.get(f"{grafana.address}/api/datasources/uid/by-{protocol}/health", timeout=30).json()
        assert health["status"] == "OK", health
        sql = "SELECT ts AS time, metric, value FROM metrics ORDER BY ts, metric LIMIT 500"
        query = {"refId": "A", "datasource": {"uid": f"by-{protocol}"}, "rawSql": sql, "format": 1, "editorType": "sql"}
        asked = {"queries": [query], "from": "0", "to": "now"}
        answer = session.post(f"{grafana.address}/api/ds/query", json=asked, timeout=30).json()
        (frame,) = answer["results"]["A"]["frames"]
        times, metrics, values = frame["data"]["values"]
        assert len(times) == len(values) == 500
        assert [[metric, value] for metric, value in zip(metrics, values, strict=True) if value is not None][:3] == [
            list(row) for row in grafana.stack.sql("SELECT metric, value FROM metrics ORDER BY ts, metric LIMIT 3")
        ]
        unknown = {**query, "rawSql": "SELECT * FROM nothing"}
        answer = session.post(f"{grafana.address}/api/ds/query", json={**asked, "queries": [unknown]}, timeout=30)
        assert "UNKNOWN_TABLE" in answer.text


def test_a_click_on_a_run_opens_it(grafana: Seen) -> None:
    browser, over = grafana.browser, grafana.over
    times = f"from={int(over.begin * 1000)}&to={int(over.end * 1000)}"
    browser.get(f"{grafana.address}/d/pulsetrain-runs?{times}&kiosk&var-project={quote(PROJECT, safe='')}")
    find = "return [...document.querySelectorAll('a')].map((a) => a.href).filter((a) => a.includes('pulsetrain-run?'))"
    links = wait_for(lambda: browser.execute_script(find), 60, "links to runs", 0.5)
    for link in links:
        (project,) = parse_qs(urlsplit(link).query)["var-project"]
        assert project == PROJECT
    assert {run for link in links for run in parse_qs(urlsplit(link).query)["var-run"]} >= set(RUNS)


def _shows(panel: dict) -> bool:
    """Whether a panel has more than a word that there is nothing."""
    return panel["text"] not in NOTHING
