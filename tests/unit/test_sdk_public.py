import subprocess
import sys

import pytest

import pulsetrain


def test_the_public_names_are_these():
    assert sorted(pulsetrain.__all__) == [
        "AlertLevel", "Api", "ConfigError", "Definition", "Error", "InvalidData", "Run", "Settings", "UsageError",
        "__version__", "alert", "config", "define_metric", "finish", "init", "log", "run", "summary",
    ]  # fmt: skip
    assert dir(pulsetrain) == sorted(pulsetrain.__all__)
    with pytest.raises(AttributeError):
        _ = pulsetrain.no_such_thing


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert pulsetrain.__version__ == version("pulsetrain")


def test_importing_it_loads_the_standard_library_alone_and_nothing_slow_of_that():
    code = "import sys; before = set(sys.modules); import pulsetrain; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-S", "-c", PATHS + code], capture_output=True, text=True, timeout=60)
    assert loaded.returncode == 0, loaded.stderr
    modules = loaded.stdout.split()
    roots = {module.partition(".")[0] for module in modules}
    assert roots <= {*sys.stdlib_module_names, "pulsetrain", "pulsetrain_schemas"}
    slow = {"asyncio", "subprocess", "socket", "ssl", "logging", "uuid", "random", "tempfile", "http", "email"}
    assert not slow & roots
    assert "importlib.metadata" not in modules
    ours = {module for module in modules if module.startswith("pulsetrain") and "._run" not in module}
    assert ours == {
        "pulsetrain", "pulsetrain._settings", "pulsetrain.journal", "pulsetrain.journal.format",
        "pulsetrain.journal.room", "pulsetrain.journal.writer", "pulsetrain_schemas", "pulsetrain_schemas.addresses",
        "pulsetrain_schemas.errors",
    }  # fmt: skip


PATHS = f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}; "


def test_the_api_is_the_read_sides_or_says_what_to_install(monkeypatch):
    import importlib.metadata as metadata

    def broken(**_):
        return [metadata.EntryPoint("Api", "pulsetrain_consumers.no_such_module:Api", "pulsetrain.api")]

    for entry_points in (lambda **_: [], broken):
        monkeypatch.setattr(metadata, "entry_points", entry_points)
        with pytest.raises(pulsetrain.Error, match=r"pip install 'pulsetrain\[consumers\]'"):
            _ = pulsetrain.Api
    monkeypatch.setattr(
        metadata, "entry_points", lambda **_: [metadata.EntryPoint("Api", "fractions:Fraction", "pulsetrain.api")]
    )
    from fractions import Fraction

    assert pulsetrain.Api is Fraction
