"""The dashboards that are committed, and what there is in them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "deploy" / "grafana" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
RULES = FOLDER.parent / "provisioning" / "alerting" / "pulsetrain.yaml"


def loaded(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels, rows and what is in them too."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels") or ()


@dataclass(frozen=True)
class Asked:
    """One query of a dashboard, of ClickHouse or of Prometheus, and by what it asks."""

    dashboard: str
    by: str
    text: str
    source: str = "pulsetrain-clickhouse"

    @property
    def is_sql(self) -> bool:
        return self.source == "pulsetrain-clickhouse"

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.by}"


def queries(path: Path) -> Iterator[Asked]:
    """Every query of the panels, the variables and the annotations of a dashboard."""
    dashboard = loaded(path)
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            text = target["expr"] if "expr" in target else target["rawSql"]
            by = f"{panel['id']} {panel['title']} {target['refId']}"
            yield Asked(path.stem, by, text, target["datasource"]["uid"])
    for variable in dashboard.get("templating", {}).get("list", ()):
        if variable["type"] == "query":
            yield Asked(path.stem, f"variable {variable['name']}", variable["query"]["rawSql"])
    for annotation in dashboard.get("annotations", {}).get("list", ()):
        yield Asked(path.stem, f"annotation {annotation['name']}", annotation["target"]["rawSql"])


def rule_queries() -> Iterator[Asked]:
    """The query of each alert rule."""
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]:
        yield Asked("rules", rule["title"], rule["data"][0]["model"]["rawSql"])
