"""A copy of runs before they go: a folder with a Parquet file for each table, and what is in it."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from pulsetrain_consumers.reading.database import Database
from pulsetrain_consumers.reading.formats import writer
from pulsetrain_schemas.errors import UserError
from pulsetrain_schemas.sql import identifier

_BATCH = 65_536
_ARE_THEIRS = "(project, run_id) IN {runs:Array(Tuple(String, String))}"
MANIFEST = "manifest.json"


class CopyFailed(UserError):
    """The copy is not whole; nothing may be deleted for it."""


def copy(
    database: Database,
    runs: Sequence[tuple[str, str]],
    tables: Mapping[str, int],
    folder: Path,
    report: Callable[[str, int], None],
) -> Path:
    """Writes all rows of these runs in `tables` (with how many there are) into a new folder; the manifest comes last.

    Raises CopyFailed where the folder is there already, cannot be written, or does not hold every row in the end.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise CopyFailed(f"{folder} is there already: name a new folder for the copy") from None
    except OSError as error:
        raise CopyFailed(f"{folder} cannot be made: {error.strerror or error}") from error
    entries = {}
    for table, expected in tables.items():
        path = folder / f"{table}.parquet"
        report(table, expected)
        written = _copy_table(database, table, runs, path)
        left = database.query(f"SELECT count() FROM {table} WHERE {_ARE_THEIRS}", runs=list(runs)).rows[0][0]  # noqa: S608
        if written < int(left):
            raise CopyFailed(
                f"{table} has {int(left):,} rows of these runs and {written:,} were copied: does one go on?"
            )
        entries[table] = {"rows": written, "file": path.name, "sha256": _digest(path)}
    manifest = {"runs": [f"{project}/{run_id}" for project, run_id in runs], "tables": entries}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def _copy_table(database: Database, table: str, runs: Sequence[tuple[str, str]], path: Path) -> int:
    columns = _readable_columns(database, table)
    rows = database.stream(f"SELECT {columns} FROM {table} WHERE {_ARE_THEIRS}", {"runs": list(runs)})  # noqa: S608
    written = 0
    try:
        with path.open("wb") as out:
            made = writer("parquet", out, into_file=True)
            made.begin(next(rows))
            while batch := list(islice(rows, _BATCH)):
                made.rows(batch)
                written += len(batch)
            made.end()
    except OSError as error:
        database.cancel()
        raise CopyFailed(f"{path} cannot be written: {error.strerror or error}") from error
    return written


def _readable_columns(database: Database, table: str) -> str:
    """All columns, in SQL; of one that holds the state of an aggregate what it comes to: no file could hold that."""
    found = database.query(
        "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {table:String} "
        "ORDER BY position",
        table=table,
    )
    return ", ".join(
        f"finalizeAggregation({name}) AS {name}" if kind.startswith("AggregateFunction") else name
        for name, kind in ((identifier(name), kind) for name, kind in found.rows)
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
