"""Opening the engine's directory after a process that ended in the middle of something.

The engine itself leaves parts aside that are not whole, and goes on with those that they were merged from. What it does
not know is that the token of an insert means nothing once the part of that insert is left aside: the same rows, sent
again under the same token, would count as stored. So such tokens are taken out of its deduplication logs: files of
lines with an operation, the part's name and the token's hash, one after another.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pulsetrain_local.clickhouse.engine import Engine

log = logging.getLogger(__name__)

LEFT_ASIDE = "broken-on-start"
FORGOTTEN = "cut-insert"
_TRIED = re.compile(r"_try\d+$")


def open_whole(path: Path, options: Mapping[str, str]) -> Engine:
    """Opens the engine; what it holds then is what was stored, and what is sent again is stored. Raises EngineError."""
    drop_cut_lines(path)
    engine = Engine(path, options)
    if forget_cut_inserts(engine):
        engine.close()
        engine = Engine(path, options)
    return engine


def drop_cut_lines(path: Path) -> None:
    """Takes the last line of a deduplication log away where it has no end: the next would become a part of it."""
    for file in path.glob("store/*/*/deduplication_logs/*.txt"):
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with file.open("r+b") as cut:
                cut.truncate(whole)


def forget_cut_inserts(engine: Engine) -> bool:
    """Forgets the tokens of inserts whose parts were left aside; True where the engine must be opened anew for that."""
    changed = False
    for part in list(_left_aside(engine)):
        name = _TRIED.sub("", part.name.removeprefix(f"{LEFT_ASIDE}_"))
        log.warning("an INSERT was cut short, and is left aside as %s", part)
        for file in (part.parent.parent / "deduplication_logs").glob("*.txt"):
            changed |= _take_out(file, name.encode())
        # So that a later part of this name is not taken for this one.
        part.rename(part.with_name(f"{FORGOTTEN}_{part.name}"))
    return changed


def _left_aside(engine: Engine) -> Iterator[Path]:
    """The folders of parts that come from one insert each and are not whole."""
    connection = engine.connect()
    try:
        found = connection.query(
            f"SELECT path FROM system.detached_parts WHERE reason = '{LEFT_ASIDE}' AND level = 0",  # noqa: S608 - fixed
            "JSONCompactEachRow",
        )
    finally:
        connection.close()
    for line in found.splitlines():
        yield Path(json.loads(line)[0])


def _take_out(file: Path, part: bytes) -> bool:
    lines = file.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.split(b"\t")[1:2] != [part]]
    if len(kept) == len(lines):
        return False
    draft = file.with_name(f".{file.name}.draft")
    with draft.open("wb") as out:
        out.writelines(kept)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)
    return True
