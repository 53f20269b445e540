"""`pulsetrain sql`: a query, and its result in the form that is wanted."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pulsetrain_schemas.errors import UserError

_FORMATS = ("table", "csv", "tsv", "json", "jsonl", "markdown", "arrow", "parquet")


@click.command()
@click.argument("query", required=False)
@click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Read the query from a file; - is stdin.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(_FORMATS),
    help="Default: a table on a terminal, csv in a pipe, for -o what the name ends in.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write into a file; it appears when it is whole.",
)
@click.option(
    "-p",
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A value for {NAME:Type} in the query. May come several times.",
)
@click.option(
    "--max-rows", type=click.IntRange(min=1), help="Stop after so many rows. Default: 10,000 for a table, else all."
)
@click.option(
    "--clickhouse", "url", metavar="URL", help="Ask this ClickHouse, not the one of the environment or the local stack."
)
def sql(
    query: str | None,
    file: Path | None,
    format_: str | None,
    output: Path | None,
    params: tuple[str, ...],
    max_rows: int | None,
    url: str | None,
) -> None:
    """Ask ClickHouse in SQL.

    QUERY is one statement; with - it is read from stdin. Parameters are ClickHouse's own: `{name:Type}` in the query,
    `-p name=value` for the value, which is read as that type and can never break out of it:

    \b
      pulsetrain sql "select metric, count() from metrics where run_id = {run:String} group by metric" -p run=abc123
      pulsetrain sql -f curves.sql -o curves.parquet

    In text, NULL is an empty cell (\\N in tsv), and nan, inf and -inf are what they are; JSON has them as strings.
    Tables: runs, metrics, system, logs, texts, latest_metrics, run_lineage, gpu_at_step, ingest.
    """
    from pulsetrain_consumers.reading import formats
    from pulsetrain_consumers.reading.database import Database, locate
    from pulsetrain_consumers.reading.output import Destination, run_query

    text = _query(query, file)
    values = dict(_parameter(param) for param in params)
    if output is not None and format_ is None:
        format_ = formats.by_extension(output)
        if format_ is None:
            raise UserError(
                f"what {output} should hold is not clear from its name; say --format, one of {', '.join(_FORMATS)}"
            )
    to_terminal = output is None and sys.stdout.isatty()
    chosen = format_ or ("table" if to_terminal else "csv")
    if chosen in formats.BINARY and to_terminal:
        raise UserError(f"{chosen} is no text for a terminal: write it into a file with -o, or into a pipe")
    with Database(locate(url)) as database:
        run_query(database, text, values, chosen, Destination(output), max_rows)


def _query(query: str | None, file: Path | None) -> str:
    if (query is None) == (file is None):
        raise UserError("give one query: as an argument, with -f FILE, or - to read it from stdin")
    if query == "-" or (file is not None and str(file) == "-"):
        return sys.stdin.read()
    if file is None:
        return query or ""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the query cannot be read from {file}: {getattr(error, 'strerror', None) or error}") from error


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"the parameter {text!r} is not understood; write -p name=value")
    return name, value
