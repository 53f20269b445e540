"""The schemas of a release that does not exist yet, for tests of versions that live together.

`newer` gives the next version of a schema: everything that FULL_TRANSITIVE allows is done to it at once. As a program,
`python -m tests.versions …` is the `pulsetrain` command of that release: the same code with those schemas.
"""

import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from pulsetrain_schemas import catalog

NEW_FIELDS: list[dict[str, Any]] = [
    {"name": "new_text", "type": ["null", "string"], "default": None},
    {"name": "new_number", "type": "double", "default": 0.5},
    {"name": "new_column", "type": {"type": "array", "items": "double"}, "default": []},
    {"name": "new_levels", "type": {"type": "array", "items": "long"}, "default": [1, 2]},
    {"name": "new_labels", "type": {"type": "map", "values": "string"}, "default": {"a": "b"}},
    {
        "name": "new_kind",
        "type": {"type": "enum", "name": "NewKind", "symbols": ["usual", "strange"], "default": "usual"},
        "default": "usual",
    },
]


def newer(document: dict[str, Any]) -> dict[str, Any]:
    """The next version: fields with defaults at the start, in the middle and at the end, new symbols of enums."""
    after = copy.deepcopy(document)
    for field in after["fields"]:
        if isinstance(field["type"], dict) and field["type"]["type"] == "enum":
            field["type"]["symbols"].append("preempted")
    for number, field in enumerate(copy.deepcopy(NEW_FIELDS)):
        after["fields"].insert(number * len(after["fields"]) // (len(NEW_FIELDS) - 1), field)
    return after


def older(document: dict[str, Any]) -> dict[str, Any]:
    """A version without the fields that have defaults."""
    before = copy.deepcopy(document)
    before["fields"] = [field for field in before["fields"] if "default" not in field]
    return before


def use_newer_schemas(folder: Path) -> None:
    """Makes this process one of the next release. To be called before anything of ours has read a schema."""
    history = folder / "history"
    history.mkdir(parents=True)
    for name in catalog.names():
        document = json.dumps(newer(catalog.load(name)))
        (folder / f"{name}.avsc").write_text(document)
        (history / f"{name}.2.avsc").write_text(document)
    catalog._FOLDER = folder
    catalog.names.cache_clear()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as schemas:
        use_newer_schemas(Path(schemas) / "avro")
        from pulsetrain.commands import main

        raise SystemExit(main(sys.argv[1:]))
