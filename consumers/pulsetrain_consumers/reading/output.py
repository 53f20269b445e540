"""Runs a query for the command: statement by statement, rows as they come, into a file, a pipe or a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pulsetrain_consumers.reading.database import Database
from pulsetrain_consumers.reading.formats import writer
from pulsetrain_consumers.reading.parameters import statements, without_comments
from pulsetrain_schemas.errors import UserError

TABLE_ROWS = 10_000
_BATCH = 8_192
_SLOW = 2.0
_REFRESH = 0.2


class Cancelled(UserError):
    """The person pressed Ctrl-C; the query was cancelled on the server too."""

    exit_code = 130


@dataclass(frozen=True, slots=True)
class Destination:
    """A file, or stdout. A file takes its name when it is whole: what stood there before stays until then."""

    path: Path | None = None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file to write to."""
        if self.path is None:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
            return
        part = self.path.with_name(f".{self.path.name}.part")
        try:
            with part.open("wb") as out:
                yield out
            part.replace(self.path)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror or error}") from error
        finally:
            part.unlink(missing_ok=True)


def run_query(
    database: Database,
    text: str,
    params: Mapping[str, Any],
    format_: str,
    destination: Destination,
    max_rows: int | None,
) -> None:
    """Runs one statement and writes its rows. Raises UserError."""
    found = statements(text)
    if len(found) != 1:
        raise UserError(
            "there is no query" if not found else f"one statement at a time, please: these are {len(found)}"
        )
    (statement,) = found
    _refuse_data(statement)
    limit = max_rows or (TABLE_ROWS if format_ == "table" else None)
    with _shown_progress(database) as waiting:
        rows = database.stream(statement, params)
        try:
            columns = next(rows, None)
            if columns is None:
                return
            with destination.open() as out:
                made = writer(format_, out, into_file=destination.path is not None)
                made.begin(columns)
                left = limit
                while batch := list(islice(rows, _BATCH if left is None else min(_BATCH, left))):
                    # A table is held back, and a file is elsewhere: other text would run into the line of progress.
                    if format_ != "table" and destination.path is None:
                        waiting.set()
                    made.rows(batch)
                    left = None if left is None else left - len(batch)
                    if left == 0:
                        break
                waiting.set()
                made.end()
            if left == 0 and next(rows, None) is not None:
                database.cancel()
                more = "more with --max-rows, or all with --format csv" if max_rows is None else "there are more"
                print(f"the first {limit:,} rows; {more}", file=sys.stderr)  # noqa: T201
        except KeyboardInterrupt:
            database.cancel()
            raise Cancelled("cancelled") from None


def _refuse_data(statement: str) -> None:
    words = without_comments(statement).upper().split()
    if words and words[0] == "INSERT" and "SELECT" not in words:
        raise UserError("pulsetrain sql sends no data: INSERT … SELECT works, for other inserts use clickhouse-client")


@contextmanager
def _shown_progress(database: Database) -> Iterator[threading.Event]:
    """Shows on a terminal what the server has read of a query that takes over two seconds, until the event is set."""
    done = threading.Event()
    if not sys.stderr.isatty():
        yield done
        return

    def show() -> None:
        if done.wait(_SLOW):
            return
        from rich.console import Console

        with Console(stderr=True).status("") as status:
            while not done.wait(_REFRESH):
                progress = database.progress
                share = f" of {progress.total:,}" if progress.total >= progress.rows > 0 else ""
                status.update(f"{progress.rows:,}{share} rows read (Ctrl-C cancels)")

    shower = threading.Thread(target=show, name="progress", daemon=True)
    shower.start()
    try:
        yield done
    finally:
        done.set()
        shower.join()
