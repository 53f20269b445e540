"""What is in `deploy`, as tests read it: the compose file, manifests as kustomize makes them, Dockerfiles, commands."""

import functools
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pulsetrain.commands import group

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("single-node", "production")

Document = Mapping[str, Any]


@functools.cache
def compose() -> Document:
    """The compose file, with its anchors resolved and its variables as they are written."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@functools.cache
def kustomized(overlay: str) -> tuple[Document, ...]:
    """All objects of an overlay. Skips the test where there is no kubectl."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not here: the manifests are not checked")
    done = subprocess.run(
        [kubectl, "kustomize", str(KUBERNETES / "overlays" / overlay)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def name_of(document: Document) -> str:
    """Kind and name, for messages."""
    return f"{document['kind']} {document['metadata']['name']}"


def workloads(documents: Sequence[Document]) -> Iterator[Document]:
    """Everything that makes pods."""
    return (one for one in documents if "template" in one.get("spec", {}))


def pod(document: Document) -> Document:
    """The spec of the pods that a workload makes."""
    return document["spec"]["template"]["spec"]


def containers(document: Document) -> list[Document]:
    """All containers of a workload's pods."""
    return [*pod(document).get("initContainers", ()), *pod(document)["containers"]]


def labels(document: Document) -> Mapping[str, str]:
    """The labels of a workload's pods."""
    return document["spec"]["template"]["metadata"]["labels"]


@functools.cache
def instructions(path: Path) -> tuple[tuple[str, str], ...]:
    """The instructions of a Dockerfile, with their arguments on one line."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return tuple(
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())
    )


def dockerfiles() -> list[Path]:
    """All of them."""
    return sorted(path for path in (DEPLOY / "docker").iterdir() if path.name.endswith("Dockerfile"))


def is_pinned(image: str) -> bool:
    """Whether an image is named with a version that says more than the first number, or by its digest."""
    _, _, tag = image.rpartition("/")[2].partition(":")
    return "@sha256:" in image or re.match(r"v?\d+\.\d+", tag) is not None


def pulsetrain_commands(words: Sequence[str]) -> Iterator[list[str]]:
    """The calls of `pulsetrain` in a container's command, also those in a text for a shell."""
    if words and words[0] == "pulsetrain":
        yield list(words)
    for text in words[1:] if words and words[0] == "sh" else ():
        for part in re.split(r"&&|;|\n", text):
            yield from pulsetrain_commands(shlex.split(part))


def parse(words: Sequence[str]) -> click.Context:
    """What the real command makes of these words, without running it. Raises click's errors for what it refuses."""
    command: click.Command = group
    context, rest = click.Context(command), list(words[1:])
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        assert found is not None, f"pulsetrain has no command {rest[0]}: {shlex.join(words)}"
        command, rest = found, rest[1:]
    return command.make_context("pulsetrain", rest)


@functools.cache
def known_variables() -> frozenset[str]:
    """The PULSETRAIN_* variables that something of ours reads."""
    found = set[str]()
    for folder in ("producer", "consumers", "schemas", "deploy/pulsetrain_local", "deploy/grafana/provisioning"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix not in (".py", ".yaml"):
                continue
            text = path.read_text()
            found |= set(re.findall(r"PULSETRAIN_[A-Z_]*[A-Z]", text))
            # environment("DIR"), choose("dir", "DIR"): by the name that WANDB_DIR has too.
            for call in re.findall(r"\b(?:environment|choose)\([^()]*\)", text):
                found |= {f"PULSETRAIN_{name}" for name in re.findall(r'"([A-Z_]+)"', call)}
    return frozenset(found)
