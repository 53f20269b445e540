"""Writes the dashboards: python -m pulsetrain_grafana [FOLDER]

FOLDER is deploy/grafana/dashboards. What is there and no dashboard of ours any more is removed.
"""

import sys
from pathlib import Path

import click

from pulsetrain_grafana.dashboards import BOARDS
from pulsetrain_grafana.files import FOLDER, written


def main() -> int:
    """Writes what differs, and says which."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{board.name}.json": written(board) for board in BOARDS}
    for path in folder.glob("*.json"):
        if path not in files:
            path.unlink()
            click.echo(f"removed {path}")
    for path, text in files.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            click.echo(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
