"""`pulsetrain grafana push | diff | link` against a double of Grafana's HTTP API that checks what it is asked."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from click.testing import CliRunner

from pulsetrain.commands import main as pulsetrain
from pulsetrain_local.grafana import shipped
from pulsetrain_local.grafana_commands import grafana
from pulsetrain_local.grafana_remote import shipped_dashboards
from pulsetrain_schemas.addresses import AddressError, GrafanaAddress
from tests.local_servers import Answer, Request, http_server

CLICKHOUSE = "clickhouse://reader:s3cret@db:9000/pulsetrain"
OURS = shipped_dashboards(shipped() / "dashboards")


@dataclass
class Double:
    """Folders, data sources and dashboards, as far as they are asked for."""

    folders: dict[str, str] = field(default_factory=dict)
    datasources: dict[int, dict[str, Any]] = field(default_factory=dict)
    dashboards: dict[str, dict[str, Any]] = field(default_factory=dict)
    token: str = "glsa_x"
    provisioned: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, request: Request) -> Answer:
        self.asked.append((request.method, request.path))
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return self._say(401, {"message": "Unauthorized"})
        body = json.loads(request.body) if request.body and request.body != b"null" else {}
        match request.method, request.path.removeprefix("/api").split("/")[1:]:
            case "GET", ["datasources"]:
                return self._say(200, [{"id": id_, **it} for id_, it in self.datasources.items()])
            case "POST", ["datasources"]:
                self.datasources[len(self.datasources) + 1] = body
                return self._say(200, {"id": len(self.datasources)})
            case "PUT", ["datasources", number]:
                self.datasources[int(number)] = body
                return self._say(200, {})
            case "GET", ["folders", uid]:
                return self._say(200, {"uid": uid}) if uid in self.folders else self._say(404, {"message": "no"})
            case "POST", ["folders"]:
                self.folders[body["uid"]] = body["title"]
                return self._say(200, body)
            case "POST", ["dashboards", "db"]:
                return self._save(body)
            case "GET", ["dashboards", "uid", uid]:
                if uid not in self.dashboards:
                    return self._say(404, {"message": "Dashboard not found"})
                return self._say(200, {"dashboard": {**self.dashboards[uid], "id": 7, "version": 3}})
        return self._say(404, {"message": "Not found"})

    def _save(self, body: dict[str, Any]) -> Answer:
        if self.provisioned:
            return self._say(400, {"message": "Cannot save provisioned dashboard"})
        assert body["folderUid"] in self.folders
        assert body["overwrite"] is True
        assert body["dashboard"].pop("id") is None
        self.dashboards[body["dashboard"]["uid"]] = body["dashboard"]
        return self._say(200, {"status": "success"})

    @staticmethod
    def _say(status: int, body: Any) -> Answer:
        return status, {"Content-Type": "application/json"}, json.dumps(body).encode()


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    there = Double()
    with http_server(there.answer) as server:
        monkeypatch.setenv("PULSETRAIN_GRAFANA", server.address.replace("://", f"://{there.token}@"))
        yield there


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(grafana, list(arguments))
    return done.exit_code, done.output if done.exception is None or isinstance(done.exception, SystemExit) else str(
        done.exception
    )


def test_what_is_pushed_is_the_same_there_and_pushed_again_changes_nothing(double: Double) -> None:
    assert run("diff")[0] == 1
    code, said = run("push", "--clickhouse", CLICKHOUSE)
    assert code == 0, said
    saved = {title for title in (str(one["title"]) for one in OURS.values()) if f"saved {title}\n" in said}
    assert {one["title"] for one in OURS.values()} - saved == {"Pulsetrain / Services"}
    assert "left out Pulsetrain / Services: Grafana has no Prometheus to ask" in said
    assert len(double.dashboards) == len(saved)
    assert double.folders == {"pulsetrain": "Pulsetrain"}
    (source,) = double.datasources.values()
    assert (source["uid"], source["jsonData"]["username"]) == ("pulsetrain-clickhouse", "reader")
    assert source["secureJsonData"] == {"password": "s3cret"}
    assert "s3cret" not in said
    assert run("diff") == (0, "".join(f"same     {title}\n" for title in sorted(saved)))
    assert run("push")[0] == 0, "the data source is there"
    assert len(double.datasources) == 1


def test_with_prometheus_the_dashboard_of_the_services_is_there_too(double: Double) -> None:
    assert run("push", "--clickhouse", CLICKHOUSE, "--prometheus", "http://prometheus:9090")[0] == 0
    assert {one["uid"]: one.get("url") for one in double.datasources.values()} == {
        "pulsetrain-clickhouse": None,
        "pulsetrain-prometheus": "http://prometheus:9090",
    }
    assert len(double.dashboards) == len(OURS)
    assert run("diff")[0] == 0
    assert "it is http://HOST:9090" in run("push", "--prometheus", "prometheus:9090")[1]


def test_a_datasource_that_is_there_is_changed_where_it_is_said_where(double: Double) -> None:
    double.datasources[4] = {"uid": "pulsetrain-clickhouse"}
    assert run("push", "--clickhouse", CLICKHOUSE)[0] == 0
    assert double.datasources[4]["jsonData"]["host"] == "db"


def test_what_was_changed_there_shows_line_by_line(double: Double) -> None:
    run("push", "--clickhouse", CLICKHOUSE)
    double.dashboards["pulsetrain-run"]["title"] = "Mine"
    del double.dashboards["pulsetrain-fleet"]
    code, said = run("diff")
    assert code == 1
    assert '-  "title": "Mine",' in said
    assert '+  "title": "Pulsetrain / Run",' in said
    assert re.search(r"^missing +Pulsetrain / GPU fleet$", said, re.MULTILINE)
    told = {one["uid"]: one["state"] for one in json.loads(run("diff", "--json")[1])}
    assert {uid for uid, state in told.items() if state != "same"} == {"pulsetrain-run", "pulsetrain-fleet"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token": "another"}, r"does not know us.*PULSETRAIN_GRAFANA is to have a token"),
        ({"provisioned": True}, r"cannot save the dashboard Pulsetrain / Alerts.*provisioned from files"),
    ],
)
def test_what_goes_wrong_there_is_said_with_the_way_out(double: Double, change: dict[str, Any], said: str) -> None:
    for name, value in change.items():
        setattr(double, name, value)
    code, told = run("push", "--clickhouse", CLICKHOUSE)
    assert code == 1
    assert re.search(said, told), told
    assert "glsa_x" not in told


def test_without_a_datasource_it_asks_where_clickhouse_is(double: Double) -> None:
    code, told = run("push")
    assert code == 1
    assert "--clickhouse clickhouse://READER" in told
    assert "token" not in run("push", "--clickhouse", "nonsense")[1]


def test_nobody_there_and_no_address_are_said(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert "there is no Grafana to talk to" in run("diff")[1]
    monkeypatch.setenv("PULSETRAIN_GRAFANA", "http://tok3n@127.0.0.1:1")
    code, told = run("diff")
    assert code == 1
    assert "http://127.0.0.1:1 does not answer" in told
    assert "tok3n" not in told
    monkeypatch.setenv("PULSETRAIN_GRAFANA", "ftp://tok3n@x")
    assert pulsetrain(["grafana", "diff"]) == 1
    err = capsys.readouterr().err
    assert "PULSETRAIN_GRAFANA is no address: it is http://TOKEN@HOST:3000" in err
    assert "tok3n" not in err
    assert "Traceback" not in err


def test_links_name_run_and_project_whatever_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSETRAIN_GRAFANA", "https://admin:pw@g.example/grafana/")
    assert run("link", "digits/abc") == (
        0,
        "https://g.example/grafana/d/pulsetrain-run?var-project=digits&var-run=abc\n",
    )
    assert run("link", "a b&c/한", "a b&c/y") == (
        0,
        "https://g.example/grafana/d/pulsetrain-compare?var-project=a%20b%26c&var-run=%ED%95%9C&var-run=y\n",
    )
    assert "PROJECT/RUN" in run("link", "abc")[1]
    assert "runs of one project" in run("link", "a/b", "c/d")[1]


@pytest.mark.parametrize("url", ["", "localhost:3000", "ftp://t@h", "http://", "http://t0k@h:99999"])
def test_an_address_that_is_none_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(AddressError, match="it is http://TOKEN@HOST:3000") as refused:
        GrafanaAddress.parse(url)
    assert "t0k" not in str(refused.value)


def test_an_address_shows_no_secret() -> None:
    for url in ("https://t0ken@h/x", "https://me:t0ken@h/x"):
        assert "t0ken" not in repr(GrafanaAddress.parse(url)) + str(GrafanaAddress.parse(url))
