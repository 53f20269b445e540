"""The rules for Prometheus, and what the dashboard asks of it: only of metrics that there are."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from pulsetrain_consumers.aggregator.telemetry import AggregatorTelemetry
from pulsetrain_consumers.monitor.telemetry import MonitorTelemetry
from pulsetrain_consumers.runtime.telemetry import Telemetry
from pulsetrain_local.prometheus import rules
from tests.grafana_files import FILES, queries
from tests.prometheus import PROMTOOL

FILE = rules() / "pulsetrain.yaml"
CASES = Path(__file__).parents[1] / "fixtures" / "prometheus_rules.yaml"
NO_PROMTOOL = pytest.mark.skipif(PROMTOOL is None, reason="no promtool is installed")


def all_rules() -> list[dict]:
    return [rule for group in yaml.safe_load(FILE.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def exported() -> set[str]:
    """The names under which the services show their metrics."""
    registries: list[CollectorRegistry] = [
        made.registry for made in (Telemetry(), MonitorTelemetry(), AggregatorTelemetry())
    ]
    families = [family for registry in registries for family in registry.collect()]
    endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
    return {family.name + ending for family in families for ending in endings[family.type]}


def asked_for(expression: str) -> set[str]:
    return set(re.findall(r"(?<![:\w])(?:pulsetrain|process)_\w+", expression)) - {"pulsetrain_lag_messages"}


def test_rules_and_dashboards_ask_for_metrics_that_there_are() -> None:
    expressions = [rule["expr"] for rule in all_rules()]
    expressions += [asked.text for path in FILES for asked in queries(path) if not asked.is_sql]
    asked = set().union(*map(asked_for, expressions))
    assert len(asked) > 15
    assert asked <= exported(), asked - exported()


def test_what_an_alert_asks_of_recording_rules_is_recorded() -> None:
    recorded = {rule["record"] for rule in all_rules() if "record" in rule}
    used = {name for rule in all_rules() for name in re.findall(r"\w+:pulsetrain_\w+:\w+", rule["expr"])}
    assert used <= recorded


def test_every_alert_says_what_it_is_about_and_has_its_page_in_the_manual() -> None:
    alerts = [rule for rule in all_rules() if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 10
    manual = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    for rule in alerts:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert f"`{rule['alert']}`" in manual


@NO_PROMTOOL
def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run([str(PROMTOOL), "check", "rules", str(FILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@NO_PROMTOOL
def test_alerts_fire_when_they_should_and_not_before() -> None:
    done = subprocess.run([str(PROMTOOL), "test", "rules", str(CASES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = {
        case["alertname"] for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]
    }
    assert tested == {rule["alert"] for rule in all_rules() if "alert" in rule}
