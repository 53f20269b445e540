"""Writes the dashboards and the alert rules: python -m pulsetrain_grafana [FOLDER]

FOLDER is deploy/grafana. A dashboard that is there and is none of ours any more is removed.
"""

import sys
from pathlib import Path

import click

from pulsetrain_grafana.files import DASHBOARDS, FOLDER, all_files


def main() -> int:
    """Writes what differs, and says which."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    files = {folder / name: text for name, text in all_files().items()}
    for path in (folder / DASHBOARDS).glob("*.json"):
        if path not in files:
            path.unlink()
            click.echo(f"removed {path}")
    for path, text in files.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            click.echo(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
