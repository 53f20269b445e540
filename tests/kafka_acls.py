"""What deploy/kafka/acls.sh asks Kafka's own tool to do, found by running it with a tool that only writes down."""

import argparse
import functools
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.deploy_files import DEPLOY

SCRIPT = DEPLOY / "kafka" / "acls.sh"
USER_PREFIX = "pulsetrain-"


@dataclass(frozen=True, slots=True)
class Acl:
    """One right of one user; the user without the prefix that all have."""

    user: str
    operation: str
    resource: str
    name: str
    prefixed: bool


@functools.cache
def acls() -> tuple[Acl, ...]:
    """All that the script gives, in order."""
    with tempfile.TemporaryDirectory() as folder:
        tool, calls = Path(folder) / "kafka-acls.sh", Path(folder) / "calls"
        tool.write_text(f'#!/bin/sh\nprintf "%s " "$@" >>{shlex.quote(str(calls))}\necho >>{shlex.quote(str(calls))}\n')
        tool.chmod(0o755)
        env = {"PATH": "/usr/bin:/bin", "KAFKA_ACLS": f"{tool} --bootstrap-server kafka:9093"}
        subprocess.run([str(SCRIPT)], env=env, check=True)
        return tuple(acl for line in calls.read_text().splitlines() for acl in _given(shlex.split(line)))


def _given(words: list[str]) -> list[Acl]:
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--bootstrap-server", required=True)
    parser.add_argument("--add", action="store_true", required=True)
    parser.add_argument("--allow-principal", required=True)
    parser.add_argument("--operation", action="append", required=True)
    parser.add_argument("--resource-pattern-type", choices=["literal", "prefixed"], default="literal")
    parser.add_argument("--topic")
    parser.add_argument("--group")
    call = parser.parse_args(words)
    assert (call.topic is None) != (call.group is None), words
    user = call.allow_principal.removeprefix("User:")
    assert user.startswith(USER_PREFIX), words
    return [
        Acl(
            user.removeprefix(USER_PREFIX),
            operation,
            "group" if call.topic is None else "topic",
            call.topic or call.group,
            call.resource_pattern_type == "prefixed",
        )
        for operation in call.operation
    ]
