"""The runs of the demo that get into trouble: what is said of them, on a terminal, in the report, and in a Grafana."""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.local_servers import Answer, Request, http_server
from tests.stack_fixture import Stack, running_stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

TROUBLES = Path(__file__).parents[2] / "examples" / "troubles.py"
PROJECT = "troubles"
# The alert that each of them is to have, by the name of its run.
EXPECTED = {"warm-up without end": "nan", "loader stalls": "loader_stall", "killed": "crashed"}
TOKEN = "glsa_of_a_service_account"


@dataclass(slots=True)
class GrafanaDouble:
    """Grafana's HTTP API, as far as it takes annotations; stricter than Grafana 11 with times and unknown fields.

    Source: https://grafana.com/docs/grafana/latest/developers/http_api/annotations/
    """

    annotations: list[dict[str, Any]] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)

    def answer(self, request: Request) -> Answer:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "Unauthorized")
        if (request.method, request.path) != ("POST", "/api/annotations"):
            return self._refuse(404, "Not found")
        if not request.headers.get("content-type", "").startswith("application/json"):
            return self._refuse(400, "bad request data")
        try:
            body = json.loads(request.body)
        except ValueError:
            return self._refuse(400, "bad request data")
        unknown = body.keys() - {"dashboardId", "dashboardUID", "panelId", "time", "timeEnd", "tags", "text", "data"}
        if unknown or not isinstance(body.get("text"), str) or not body["text"]:
            return self._refuse(400, f"Failed to save annotation: text field should not be empty, or {unknown}")
        if not all(isinstance(body.get(name), int) for name in ("time", "timeEnd")) or body["time"] > body["timeEnd"]:
            return self._refuse(400, "times are whole milliseconds, in order")
        if not isinstance(body.get("tags"), list) or not all(isinstance(tag, str) for tag in body["tags"]):
            return self._refuse(400, "tags are texts")
        if len(json.dumps(body["tags"], ensure_ascii=False).encode()) > 500:
            return self._refuse(400, "tags length exceeds the maximum allowed: modify the configuration to increase it")
        self.annotations.append(body)
        return self._json(200, {"message": "Annotation added", "id": len(self.annotations)})

    def tagged(self) -> list[dict[str, str]]:
        """The tags of each annotation; those that say what they are, by that."""
        return [dict(tag.split(":", 1) if ":" in tag else (tag, "") for tag in one["tags"]) for one in self.annotations]

    def _refuse(self, status: int, message: str) -> Answer:
        self.refused.append((status, message))
        return self._json(status, {"message": message})

    @staticmethod
    def _json(status: int, body: dict[str, Any]) -> Answer:
        return status, {"Content-Type": "application/json"}, json.dumps(body).encode()


@dataclass(frozen=True, slots=True)
class Told:
    """What came of the runs: the stack, Grafana, and the runs' ids by their names."""

    stack: Stack
    grafana: GrafanaDouble
    runs: dict[str, str]
    began: float


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """The three runs, when the last of their alerts has come to Grafana."""
    directory, began, grafana = tmp_path_factory.mktemp("troubles"), time.time(), GrafanaDouble()
    with http_server(grafana.answer) as server:
        address = server.address.replace("http://", f"http://{TOKEN}@")
        with running_stack(directory, PULSETRAIN_GRAFANA=address) as stack:
            processes = [
                subprocess.Popen(
                    [sys.executable, str(TROUBLES), name, "--project", PROJECT],
                    env=stack.env,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                for name in ("nan", "loader", "killed")
            ]
            try:
                wanted = {(kind, "firing") for kind in EXPECTED.values()} | {("loader_stall", "resolved")}

                def all_told() -> bool:
                    sent = {(tags["kind"], state) for tags in grafana.tagged() for state in tags if tags[state] == ""}
                    return sent >= wanted

                wait_for(all_told, 150, "the alerts in Grafana", 0.2)
                for process in processes:
                    process.wait(60)
                runs = dict(
                    stack.sql("SELECT name, run_id FROM runs WHERE project = %(project)s", {"project": PROJECT})
                )
                yield Told(stack, grafana, runs, began)
            finally:
                for process in processes:
                    process.kill()
                    process.wait()


def test_each_trouble_has_its_alert_in_pulsetrain_alerts(told: Told) -> None:
    found = json.loads(told.stack.pulsetrain("alerts", PROJECT, "--json").stdout)
    by_run = {name: {one["kind"]: one for one in found if one["run_id"] == run} for name, run in told.runs.items()}
    assert by_run.keys() == EXPECTED.keys()
    for name, kind in EXPECTED.items():
        assert kind in by_run[name], by_run
        assert by_run[name][kind]["severity"] == "critical"
    nan, stall, crash = (by_run[name][kind] for name, kind in EXPECTED.items())
    assert 412 <= nan["step"] <= 414
    assert (stall["step"], stall["state"]) == (199, "resolved"), "the script was told, and its loader went on"
    assert crash["state"] == "firing"
    shown = told.stack.pulsetrain("alerts", PROJECT).stdout
    assert all(title in shown for title in ("Not a number: loss", "Data loader stalled", "Crashed"))


def test_each_trouble_is_in_the_report(told: Told, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    told.stack.pulsetrain("report", PROJECT, "-o", str(file))
    (written,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', file.read_text())
    data = json.loads(written)
    found = {(data["runs"][one["run"]]["name"], one["kind"]) for one in data["alerts"]}
    assert found >= set(EXPECTED.items())
    assert all(isinstance(one["step"], int) for one in data["alerts"])


def test_each_trouble_is_an_annotation_at_its_moment_and_its_step(told: Told) -> None:
    assert told.grafana.refused == []
    tagged = told.grafana.tagged()
    assert all("pulsetrain" in tags and tags["project"] == PROJECT for tags in tagged)
    states = ("firing", "resolved")
    once = Counter((tags["run"], tags["kind"], next(it for it in states if it in tags)) for tags in tagged)
    for name, kind in EXPECTED.items():
        assert once[told.runs[name], kind, "firing"] == 1, once
    assert max(once.values()) == 1
    for kind, text, steps in (
        ("nan", "loss", (412, 414)),
        ("loader_stall", "data", (199, 199)),
        ("crashed", "killed", None),  # word of it may come before its last rows
    ):
        (one,) = [one for one in told.grafana.annotations if {f"kind:{kind}", "firing"} <= set(one["tags"])]
        if steps is not None:
            step = int(next(tag for tag in one["tags"] if tag.startswith("step:")).removeprefix("step:"))
            assert steps[0] <= step <= steps[1], one
        assert "critical" in one["tags"]
        assert text in one["text"]
        assert told.began * 1000 <= one["time"] == one["timeEnd"] <= time.time() * 1000


def test_each_trouble_can_be_asked_for_in_sql(told: Told) -> None:
    found = told.stack.sql(
        "SELECT r.name, a.kind, a.ending FROM alerts AS a INNER JOIN runs AS r ON r.run_id = a.run_id "
        "WHERE a.project = %(project)s AND r.project = %(project)s AND a.fired IS NOT NULL",
        {"project": PROJECT},
    )
    endings = {(name, kind): ending for name, kind, ending in found}
    assert endings.keys() >= set(EXPECTED.items())
    assert endings["loader stalls", "loader_stall"].startswith("the data came after")
    assert endings["killed", "crashed"] == ""
