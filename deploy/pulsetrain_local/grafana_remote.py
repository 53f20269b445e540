"""Our dashboards in a Grafana that runs already, through its HTTP API (grafana-api)."""

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from grafana_api.grafana_api import GrafanaClientError, GrafanaException, GrafanaUnauthorizedError
from grafana_api.grafana_face import GrafanaFace

from pulsetrain_local.grafana import PLUGIN
from pulsetrain_schemas.addresses import ClickHouseAddress, GrafanaAddress
from pulsetrain_schemas.errors import UserError

FOLDER, FOLDER_TITLE = "pulsetrain", "Pulsetrain"
CLICKHOUSE, PROMETHEUS = "pulsetrain-clickhouse", "pulsetrain-prometheus"
DASHBOARDS_OF_PROMETHEUS = ("pulsetrain-services",)
# What Grafana adds to a dashboard that it keeps.
_GRAFANAS_OWN = ("id", "version", "iteration")
_NOT_FOUND, _FORBIDDEN = 404, 403


@dataclass(frozen=True, slots=True)
class Difference:
    """A dashboard as it is there, beside ours: missing, same, or changed by these lines of a unified diff."""

    uid: str
    title: str
    state: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sources:
    """Where Grafana reaches ClickHouse (as a user who only reads) and Prometheus; None leaves what is there."""

    clickhouse: ClickHouseAddress | None = None
    prometheus: str | None = None

    def datasources(self) -> Iterator[dict[str, Any]]:
        """The data sources, the same as deploy/grafana/provisioning says."""
        if self.clickhouse is not None:
            yield {
                "uid": CLICKHOUSE,
                "name": "Pulsetrain",
                "type": PLUGIN,
                "access": "proxy",
                "jsonData": {
                    "host": self.clickhouse.host,
                    "port": self.clickhouse.port,
                    "protocol": "native",
                    "secure": self.clickhouse.secure,
                    "username": self.clickhouse.user,
                    "defaultDatabase": self.clickhouse.database,
                    "dialTimeout": "10",
                    "queryTimeout": "60",
                },
                "secureJsonData": {"password": self.clickhouse.password},
            }
        if self.prometheus is not None:
            yield {
                "uid": PROMETHEUS,
                "name": "Pulsetrain Prometheus",
                "type": "prometheus",
                "access": "proxy",
                "url": self.prometheus,
                "jsonData": {"httpMethod": "POST", "timeInterval": "5s"},
            }


class RemoteGrafana:
    """A Grafana at an address. All methods raise UserError where it does not answer, or does not let us."""

    def __init__(self, address: GrafanaAddress) -> None:
        self._address = address
        self._face = GrafanaFace(**address.client_config(), timeout=30.0)

    def push(self, dashboards: Mapping[str, Mapping[str, Any]], sources: Sources) -> Iterator[str]:
        """Puts dashboards (by uid) into the folder Pulsetrain, over what is there; says each title when it is done.

        `sources` are where Grafana reaches ClickHouse and Prometheus: their data sources are made, or changed. Without
        an address the data source has to be there; the dashboards of Prometheus are left out where it is not.
        """
        there = self._datasources()
        if sources.clickhouse is None and CLICKHOUSE not in there:
            raise UserError(
                f"Grafana at {self._address} has no data source {CLICKHOUSE}: say where it reaches ClickHouse, "
                "--clickhouse clickhouse://READER:PASSWORD@HOST:9000/pulsetrain (a user who only reads is enough)"
            )
        for wanted in sources.datasources():
            with self._asked("make the data source"):
                if wanted["uid"] in there:
                    self._face.datasource.update_datasource(there[wanted["uid"]], wanted)
                else:
                    self._face.datasource.create_datasource(wanted)
        with self._asked("make the folder"):
            if self._found(lambda: self._face.folder.get_folder(FOLDER)) is None:
                self._face.folder.create_folder(FOLDER_TITLE, FOLDER)
        for dashboard in self.shown(dashboards).values():
            with self._asked(f"save the dashboard {dashboard['title']}"):
                document = {"dashboard": {**dashboard, "id": None}, "folderUid": FOLDER, "overwrite": True}
                self._face.dashboard.update_dashboard(document)
            yield str(dashboard["title"])

    def shown(self, dashboards: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """Those that can show something there: without Prometheus all but its own."""
        left_out = () if PROMETHEUS in self._datasources() else DASHBOARDS_OF_PROMETHEUS
        return {uid: dashboard for uid, dashboard in dashboards.items() if uid not in left_out}

    def differences(self, dashboards: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
        """How the dashboards are there, one after another."""
        for uid, ours in dashboards.items():
            title = str(ours["title"])
            with self._asked(f"read the dashboard {title}"):
                found = self._found(lambda uid=uid: self._face.dashboard.get_dashboard(uid))
            if found is None:
                yield Difference(uid, title, "missing")
                continue
            there, here = _lines(found["dashboard"]), _lines(ours)
            lines = tuple(difflib.unified_diff(there, here, f"{title} (there)", f"{title} (ours)", lineterm="", n=2))
            yield Difference(uid, title, "changed" if lines else "same", lines)

    def _datasources(self) -> dict[str, int]:
        """The ids of the data sources there, by uid."""
        with self._asked("look for the data source"):
            return {one["uid"]: one["id"] for one in self._face.datasource.list_datasources()}

    @staticmethod
    def _found(ask: Any) -> Any:
        try:
            return ask()
        except GrafanaClientError as error:
            if error.status_code == _NOT_FOUND:
                return None
            raise

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        try:
            yield
        except GrafanaUnauthorizedError:
            raise UserError(
                f"Grafana at {self._address} does not know us: PULSETRAIN_GRAFANA is to have a token or a user, "
                "http://TOKEN@HOST:3000 or http://USER:PASSWORD@HOST:3000"
            ) from None
        except GrafanaClientError as error:
            if error.status_code == _FORBIDDEN:
                raise UserError(f"Grafana at {self._address} does not let us {what}: {error.message}") from None
            if "provisioned" in str(error.message).lower():
                raise UserError(
                    f"Grafana at {self._address} cannot {what}: it is provisioned from files there, so change those"
                ) from None
            raise UserError(f"Grafana at {self._address} refuses to {what}: {error.message}") from None
        except (GrafanaException, requests.RequestException, ValueError, TypeError, KeyError) as error:
            # A TypeError is what grafana-api (1.0.3) makes of an error page of a proxy that has "message" in it.
            kind = type(error).__name__
            raise UserError(
                f"Grafana at {self._address} does not answer as it should ({kind}), asked to {what}"
            ) from None


def shipped_dashboards(folder: Path) -> dict[str, dict[str, Any]]:
    """The dashboards of a folder by uid, in the order of their titles."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return {one["uid"]: one for one in sorted(found, key=lambda one: str(one["title"]))}


def run_address(address: GrafanaAddress, project: str, runs: tuple[str, ...]) -> str:
    """The address of the dashboard of a run, or of several over one another."""
    board = "pulsetrain-run" if len(runs) == 1 else "pulsetrain-compare"
    chosen = "".join(f"&var-run={quote(run, safe='')}" for run in runs)
    return f"{address}/d/{board}?var-project={quote(project, safe='')}{chosen}"


def _lines(dashboard: Mapping[str, Any]) -> list[str]:
    own = {key: value for key, value in dashboard.items() if key not in _GRAFANAS_OWN}
    return json.dumps(own, indent=2, sort_keys=True, ensure_ascii=False).splitlines()
