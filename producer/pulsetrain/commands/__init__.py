"""The `pulsetrain` command: finds its sub-commands by entry point and imports one only when it is asked for.

Every installed package of ours brings its own (group `pulsetrain.commands`). What a sub-command raises as UserError is
printed for a person to read, without a traceback.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any

import click

from pulsetrain_schemas.errors import UserError

GROUP = "pulsetrain.commands"
# Which extra brings the libraries of which of our packages.
EXTRAS = {"pulsetrain_consumers": "consumers", "pulsetrain_local": "local"}
INTERRUPTED = 130


class EntryPointGroup(click.Group):
    """A group whose commands are entry points."""

    def __init__(self, *args: Any, points: Sequence[EntryPoint] | None = None, **kwargs: Any) -> None:
        """`points` are the installed ones where they are not given."""
        super().__init__(*args, **kwargs)
        self._given = points

    @property
    def _points(self) -> dict[str, EntryPoint]:
        found = entry_points(group=GROUP) if self._given is None else self._given
        return {point.name: point for point in found}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, without importing anything."""
        return sorted({*super().list_commands(ctx), *self._points})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one command. UserError names the extra that it needs where that is missing."""
        point = self._points.get(cmd_name)
        if point is None:
            return super().get_command(ctx, cmd_name)
        try:
            command = point.load()
        except ImportError as error:
            raise UserError(_missing(cmd_name, point, error)) from error
        except AttributeError as error:
            raise UserError(f"the command {cmd_name} is not whole in this installation: {error}") from error
        if not isinstance(command, click.Command):
            raise UserError(f"the entry point of {cmd_name}, {point.value}, is no command")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """As click's. A command may import its libraries only when it runs: what is missing then is said as well."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            point = self._points.get(ctx.invoked_subcommand or "")
            if point is None:
                raise
            raise UserError(_missing(point.name, point, error)) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with a guess at what was meant."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.list_commands(ctx):
            import difflib

            near = difflib.get_close_matches(name, self.list_commands(ctx), 1)
            hint = f"; did you mean {near[0]}?" if near else "; see pulsetrain --help"
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands with a line of help each; of one that cannot be imported, why."""
        rows = []
        for name in self.list_commands(ctx):
            try:
                command = self.get_command(ctx, name)
            except UserError:
                point = self._points[name]
                rows.append((name, f"(needs pip install 'pulsetrain[{_extra(point)}]')"))
                continue
            if command is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(formatter.width)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _extra(point: EntryPoint) -> str:
    return EXTRAS.get(point.module.partition(".")[0], "all")


def _missing(name: str, point: EntryPoint, error: ImportError) -> str:
    module = error.name or str(error)
    if module.startswith("pulsetrain"):
        return f"pulsetrain {name} is not part of this installation: {error}; pip install 'pulsetrain[{_extra(point)}]'"
    return f"pulsetrain {name} needs {module}, which is not installed: pip install 'pulsetrain[{_extra(point)}]'"


@click.group(cls=EntryPointGroup, name="pulsetrain", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("pulsetrain"), prog_name="pulsetrain")
def group() -> None:
    """Experiment tracking as an event stream: log() to Kafka, ClickHouse and SQL, with every point counted."""


def main(arguments: Sequence[str] | None = None, *, command: click.Command = group) -> int:
    """Runs the command and returns its exit code: the entry point of the script `pulsetrain`.

    1 for an error that the user can put right, 2 for wrong arguments, 130 after Ctrl-C. A reader of the output that
    goes away (`pulsetrain runs | head`) is no error.
    """
    try:
        result = command.main(args=arguments, prog_name="pulsetrain", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except UserError as error:
        click.echo(f"pulsetrain: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("pulsetrain: interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output once more at exit: let it go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
