"""What Grafana is provisioned with, as text."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from pulsetrain_grafana import rules
from pulsetrain_grafana.boards import Board
from pulsetrain_grafana.dashboards import BOARDS

FOLDER = Path(__file__).parents[1] / "grafana"
DASHBOARDS = "dashboards"
RULES = "provisioning/alerting/pulsetrain.yaml"


def all_files() -> dict[str, str]:
    """All that is made of the code, by its path in `FOLDER`."""
    return {f"{DASHBOARDS}/{board.name}.json": written(board) for board in BOARDS} | {RULES: rules.written()}


def written(board: Board) -> str:
    """The file of a dashboard: keys in order, so that a change shows as what it is."""
    return json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
