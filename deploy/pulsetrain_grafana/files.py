"""Dashboards as the JSON that Grafana is provisioned with."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from pulsetrain_grafana.boards import Board

FOLDER = Path(__file__).parents[1] / "grafana" / "dashboards"


def written(board: Board) -> str:
    """The file of a dashboard: keys in order, so that a change shows as what it is."""
    return json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
