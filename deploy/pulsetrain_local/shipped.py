"""Files that come with Pulsetrain and are no code: beside this package where it is installed, else in `deploy`."""

from pathlib import Path

_HERE = Path(__file__).parent


def shipped(installed: str, checkout: str) -> Path:
    """A folder, by its name beside this package (see pyproject.toml, force-include) and by its name in `deploy`."""
    beside = _HERE / installed
    return beside if beside.is_dir() else _HERE.parent / checkout
