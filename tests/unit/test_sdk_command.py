import subprocess
import sys
from importlib.metadata import EntryPoint

import click
import pytest

from pulsetrain import commands
from pulsetrain_schemas.errors import UserError


@click.command()
@click.option("--how", default="well")
def fine(how):
    """Does what it is for."""
    click.echo(f"done {how}")


@click.command()
def refused():
    raise UserError("the port 9092 is in use; choose another with --port")


@click.command()
def interrupted():
    raise KeyboardInterrupt


@click.command()
def unread():
    raise BrokenPipeError


@click.command()
def incomplete():
    import no_such_library  # noqa: F401


def point(name, value):
    return EntryPoint(name, value, commands.GROUP)


HERE = "tests.unit.test_sdk_command"


@pytest.fixture
def group():
    points = [point(name, f"{__name__}:{name}") for name in ("fine", "refused", "interrupted", "unread", "incomplete")]
    points.append(point("sql", "pulsetrain_consumers.no_such_module:sql"))
    points.append(point("up", "pulsetrain_local_no_such.commands:up"))
    sys.modules.setdefault(__name__, sys.modules[fine.callback.__module__])
    return commands.EntryPointGroup(name="pulsetrain", points=points)


def test_a_command_runs_and_its_exit_code_is_0(group, capsys):
    assert commands.main(["fine", "--how", "quickly"], command=group) == 0
    assert capsys.readouterr().out == "done quickly\n"


def test_an_error_for_the_user_is_one_line_on_stderr_and_exit_code_1(group, capsys):
    assert commands.main(["refused"], command=group) == 1
    assert capsys.readouterr().err == "pulsetrain: the port 9092 is in use; choose another with --port\n"


def test_wrong_arguments_are_exit_code_2(group, capsys):
    assert commands.main(["fine", "--no-such-option"], command=group) == 2
    assert "No such option" in capsys.readouterr().err


def test_a_command_that_is_not_there_is_exit_code_2_with_a_guess(group, capsys):
    assert commands.main(["fin"], command=group) == 2
    assert "did you mean fine?" in capsys.readouterr().err


def test_a_command_whose_libraries_are_missing_names_the_extra(group, capsys):
    assert commands.main(["sql"], command=group) == 1
    assert "pip install 'pulsetrain[consumers]'" in capsys.readouterr().err
    assert commands.main(["up"], command=group) == 1


def test_help_lists_every_command_also_those_that_cannot_be_imported(group, capsys):
    assert commands.main(["--help"], command=group) == 0
    shown = capsys.readouterr().out
    assert "Does what it is for." in shown
    assert "sql" in shown
    assert "needs pip install 'pulsetrain[consumers]'" in shown


def test_ctrl_c_is_exit_code_130_without_a_traceback(group, capsys):
    assert commands.main(["interrupted"], command=group) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    code = f"import sys; sys.path.insert(0, '.'); from {HERE} import unread; from pulsetrain import commands; "
    code += "sys.exit(commands.main([], command=unread))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_that_of_the_distribution(capsys):
    assert commands.main(["--version"]) == 0
    assert commands.version("pulsetrain") in capsys.readouterr().out


def test_a_library_that_a_command_misses_as_it_runs_is_named_with_the_extra(group, capsys):
    assert commands.main(["incomplete"], command=group) == 1
    said = capsys.readouterr().err
    assert said.startswith("pulsetrain: pulsetrain incomplete needs no_such_library")
    assert "pip install 'pulsetrain[" in said
