"""Removes by hand, below some folders, the journals that Kafka has had for a while: `pulsetrain sync --clean`."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pulsetrain.forwarder import removal
from pulsetrain.forwarder.acknowledgement import ACK_FILE
from pulsetrain.forwarder.ownership import Ownership
from pulsetrain.forwarder.sending import find_journals
from pulsetrain.journal.room import BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became, or would become, of one journal. `detail` says why it stays."""

    journal: Path
    removed: bool
    bytes: int
    detail: str = ""


def clean(paths: Iterable[Path], age: float, *, dry_run: bool = False, now: float | None = None) -> list[Outcome]:
    """Removes what Kafka has had for `age` seconds or longer; what it has not, stays whatever its age."""
    now = time.time() if now is None else now
    where = list(paths)
    if not dry_run:
        for trash in [found for path in where for found in path.rglob(f"{removal.TRASH_PREFIX}*")]:
            removal.discard(trash)  # one that an earlier removal did not come to the end of
    return [_clean(journal, age, now, dry_run=dry_run) for journal in find_journals(where)]


def _clean(journal: Path, age: float, now: float, *, dry_run: bool) -> Outcome:
    size = 0
    try:
        size = sum(path.stat().st_blocks * BLOCK_BYTES for path in journal.iterdir())
        removal.check(journal)
        since = now - (journal / ACK_FILE).stat().st_mtime
        if since < age:
            raise removal.Kept(f"Kafka has had it for {since / 86400:.1f} days only")
        if not dry_run:
            removal.remove(journal, now)
        elif (ownership := Ownership.take(journal)) is None:
            raise removal.Kept(removal.OWNED)
        else:
            ownership.release()
    except removal.Kept as kept:
        return Outcome(journal, removed=False, bytes=size, detail=str(kept))
    except OSError as error:
        return Outcome(journal, removed=False, bytes=size, detail=f"it cannot be removed: {error}")
    return Outcome(journal, removed=True, bytes=size)
