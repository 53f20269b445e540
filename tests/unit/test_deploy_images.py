"""The Dockerfiles: what they install can be installed and runs, and what they make runs as nobody in particular."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.deploy_files import DEPLOY, ROOT, dockerfiles, instructions, is_pinned, parse

PULSETRAIN = DEPLOY / "docker" / "Dockerfile"
ALIVE = DEPLOY / "docker" / "forwarder_alive.py"
INSTALLED_AT = "/opt/pulsetrain"


def _stages(path: Path) -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, by its name; that of one without a name is its image."""
    stages: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions(path):
        if word == "FROM":
            stages[rest.rpartition(" AS ")[2]] = []
        if stages:
            stages[list(stages)[-1]].append((word, rest))
    return stages


def _of(stage: str, path: Path = PULSETRAIN) -> list[tuple[str, str]]:
    """The instructions of a stage, after those of the stages that it is from."""
    own = _stages(path)[stage]
    base = own[0][1].partition(" AS ")[0]
    return [*(_of(base, path) if base in _stages(path) else ()), *own]


@pytest.mark.parametrize("path", dockerfiles(), ids=lambda path: path.name)
def test_base_images_have_a_version(path: Path):
    stages = _stages(path)
    bases = {rest.partition(" AS ")[0] for word, rest in instructions(path) if word == "FROM"} - set(stages)
    assert bases
    for base in bases:
        assert is_pinned(base), base


FINAL = [
    (PULSETRAIN, "consumers"),
    (PULSETRAIN, "forwarder"),
    (DEPLOY / "docker" / "grafana.Dockerfile", "grafana"),
]


@pytest.mark.parametrize(("path", "stage"), FINAL, ids=["consumers", "forwarder", "grafana"])
def test_an_image_runs_as_a_user_with_a_number_says_what_it_is_and_knows_whether_it_is_well(path: Path, stage: str):
    found = _of(stage, path)
    last_user = [rest for word, rest in found if word == "USER"][-1]
    assert re.fullmatch(r"[1-9]\d*:\d+", last_user)
    said = " ".join(rest for word, rest in found if word == "LABEL")
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in said
    assert any(word == "HEALTHCHECK" for word, _ in found)
    assert not re.search(
        r"(?i)(password|token|secret)\s*=", " ".join(rest for word, rest in found if word in ("ENV", "ARG"))
    )


@pytest.mark.parametrize("stage", ["consumers", "forwarder"])
def test_what_an_image_runs_by_itself_is_a_command_that_there_is(stage: str):
    words = [rest for word, rest in _of(stage) if word == "CMD"][-1]
    command = [part.strip().strip('"') for part in words.strip("[]").split(",")]
    assert command[0] == "pulsetrain"
    if command[1:] != ["--help"]:
        parse(command)


def test_a_forwarder_that_is_told_to_stay_never_takes_itself_for_idle():
    assert parse(["pulsetrain", "forwarder", "--idle-exit", "inf"]).params["idle_exit"] == float("inf")


@pytest.mark.parametrize("path", dockerfiles(), ids=lambda path: path.name)
def test_what_is_copied_is_there_and_is_let_into_the_build(path: Path):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    copied = [rest.split() for word, rest in instructions(path) if word == "COPY"]
    sources = [
        source for words in copied if not words[0].startswith("--from") for source in words[:-1] if source[0] != "-"
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == one or source.startswith(f"{one}/") for one in let_in), (
            f"{source} is kept out of the build"
        )


def _copied(stage: str, to: Path) -> Path:
    """What the stage has of the source tree, and nothing else of it."""
    for word, rest in _of(stage):
        words = [one for one in rest.split() if not one.startswith("--")]
        if word == "COPY":
            for source in words[:-1]:
                there = to / (source if words[-1] in (".", "./") else words[-1])
                there.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, there, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copyfile(ROOT / source, there)
    return to


def _python() -> str:
    """The image's Python where this machine has it, else the test's own."""
    (version,) = re.findall(r"FROM python:(\d+\.\d+)", PULSETRAIN.read_text())
    found = shutil.which(f"python{version}")
    works = found and subprocess.run([found, "-c", "import venv"], capture_output=True, check=False).returncode == 0
    return found if found and works else sys.executable


WORKS = {
    "consumers": (["--help"], ["consumer", "writer", "--help"], ["migrate", "--help"], ["topics", "--help"]),
    "forwarder": (["--help"], ["forwarder", "--help"], ["sync", "--help"]),
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("image", list(WORKS))
def test_what_an_image_installs_is_whole(image: str, tmp_path: Path):
    """The very commands of the Dockerfile, on what it copies, in an environment that has nothing yet."""
    source, venv = _copied(f"{image}-installed", tmp_path / "src"), tmp_path / "venv"
    ran = [rest.replace(INSTALLED_AT, str(venv)) for word, rest in _of(f"{image}-installed") if word == "RUN"]
    ran = [command for command in ran if "venv" in command or "pip install" in command]
    assert len(ran) == 2
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for command in ran:
        words = shlex.split(command)
        if words[0] == "python":
            words[0] = _python()
        done = subprocess.run(words, cwd=source, env=env, capture_output=True, text=True, check=False)
        if "NewConnectionError" in done.stderr or "No matching distribution found for hatchling" in done.stderr:
            pytest.skip("no package index answers here")
        assert done.returncode == 0, done.stderr[-2000:]
    for arguments in WORKS[image]:
        done = subprocess.run(
            [venv / "bin" / "pulsetrain", *arguments],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _alive(home: Path) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PULSETRAIN_HOME": str(home)}
    return subprocess.run([sys.executable, str(ALIVE)], env=env, capture_output=True, text=True, check=False)


def test_a_forwarder_that_writes_its_status_is_alive_and_one_that_has_fallen_silent_is_not(tmp_path: Path):
    assert _alive(tmp_path).returncode == 1
    status = tmp_path / "forwarder" / "local" / "status.json"
    status.parent.mkdir(parents=True)
    status.write_text("{}")
    assert _alive(tmp_path).returncode == 0
    os.utime(status, (time.time() - 120, time.time() - 120))
    done = _alive(tmp_path)
    assert done.returncode == 1
    assert "silent for 120 s" in done.stderr
