"""How the stack's ClickHouse is run: the `clickhouse` binary on the PATH where it is recent enough, else the engine as
a library behind the server of `pulsetrain_local.clickhouse`. Both listen on loopback with one user and a password.
"""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from pulsetrain_local.home import write_private
from pulsetrain_local.ports import HOST

USER = "pulsetrain"
READER = "grafana"
"""A user who only reads: what shows the tables to others needs no more."""
DATABASE = "pulsetrain"
OLDEST = (24, 3)
"""The tables need deduplication windows and types that older servers lack."""


@dataclass(frozen=True, slots=True)
class ServerPorts:
    """Where a server listens on loopback: for the native protocol, and for HTTP."""

    native: int
    http: int


def find_binary(env: Mapping[str, str] = os.environ) -> Path | None:
    """The `clickhouse` on the PATH, where it holds a server that is recent enough."""
    found = shutil.which("clickhouse", path=env.get("PATH"))
    if found is None:
        return None
    version = binary_version(Path(found))
    return Path(found) if version is not None and version >= OLDEST else None


def binary_version(binary: Path) -> tuple[int, int] | None:
    """The version of a clickhouse binary's server; None where it has none or does not run."""
    try:
        answer = subprocess.run([binary, "server", "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"version (\d+)\.(\d+)", answer.stdout)
    return (int(found.group(1)), int(found.group(2))) if found else None


def embedded_command(directory: Path, ports: ServerPorts, password_file: Path, reader_password_file: Path) -> list[str]:
    """The command that runs the embedded server."""
    directory.mkdir(parents=True, exist_ok=True)
    where = ["--path", str(directory / "embedded"), "--port", str(ports.native), "--http-port", str(ports.http)]
    logins = ["--user", USER, "--password-file", str(password_file)]
    logins += ["--reader", READER, "--reader-password-file", str(reader_password_file)]
    return [sys.executable, "-m", "pulsetrain_local.clickhouse", *where, *logins]


def binary_command(binary: Path, directory: Path, ports: ServerPorts, password: str, reader_password: str) -> list[str]:
    """The command that runs the binary, with a configuration of its own. Its data is not the embedded server's."""
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.xml"
    write_private(config, configuration(directory / "server", ports, password, reader_password))
    return [str(binary), "server", f"--config-file={config}"]


def configuration(data: Path, ports: ServerPorts, password: str, reader_password: str) -> str:
    """A server configuration: loopback, a user who may do all, and one who only reads."""
    digest, reader_digest = (hashlib.sha256(one.encode()).hexdigest() for one in (password, reader_password))
    path = escape(str(data))
    return f"""<clickhouse>
    <logger><level>warning</level><console>1</console></logger>
    <listen_host>{HOST}</listen_host>
    <tcp_port>{ports.native}</tcp_port>
    <http_port>{ports.http}</http_port>
    <path>{path}/</path>
    <user_files_path>{path}/user_files/</user_files_path>
    <mark_cache_size>268435456</mark_cache_size>
    <max_server_memory_usage_to_ram_ratio>0.5</max_server_memory_usage_to_ram_ratio>
    <users>
        <{USER}>
            <password_sha256_hex>{digest}</password_sha256_hex>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <access_management>1</access_management>
        </{USER}>
        <{READER}>
            <password_sha256_hex>{reader_digest}</password_sha256_hex>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>reader</profile>
            <quota>default</quota>
            <grants><query>GRANT SELECT, SHOW ON *.*</query></grants>
        </{READER}>
    </users>
    <profiles>
        <default/>
        <reader>
            <readonly>1</readonly>
            <constraints><max_execution_time><changeable_in_readonly/></max_execution_time></constraints>
        </reader>
    </profiles>
    <quotas><default/></quotas>
    <access_control_improvements>
        <settings_constraints_replace_previous>true</settings_constraints_replace_previous>
    </access_control_improvements>
</clickhouse>
"""


def answers(port: int, password: str, host: str = HOST, timeout: float = 2.0) -> bool:
    """Whether the ClickHouse there lets us in: a Hello of the native protocol (revision 54445), answered."""
    hello = bytes([0]) + _string("pulsetrain") + bytes([1, 1]) + b"\xad\xa9\x03"
    hello += _string("") + _string(USER) + _string(password)
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.sendall(hello)
            return connection.recv(1) == b"\0"
    except OSError:
        return False


def _string(text: str) -> bytes:
    """A string of the native protocol, of less than 128 bytes."""
    data = text.encode()
    return bytes([len(data)]) + data
