"""What `pulsetrain doctor` looks at: all that the pipeline needs, each with what was found and what to do about it."""

import contextlib
import enum
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulsetrain_local import clickhouse_server, kafka_jars
from pulsetrain_local.forwarders import forwarders
from pulsetrain_local.home import Home, read_json
from pulsetrain_local.java import NoJava, find_java
from pulsetrain_local.stack import pulsetrain_command, says_ready
from pulsetrain_schemas import addresses, topics

_GIBIBYTE = 1 << 30
_LEAST_SPACE = 2 * _GIBIBYTE
_CLOCK_TOLERANCE = 5.0
_INSTALL = "pip install 'pulsetrain[local]'"


class Verdict(enum.StrEnum):
    """What was found. UNKNOWN: it could not be looked at, because something else is not there."""

    OK = "ok"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and where it is a problem, what to do."""

    subject: str
    verdict: Verdict
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        return {"check": self.subject, "state": self.verdict, "detail": self.detail, "remedy": self.remedy}


def examine(home: Home, env: Mapping[str, str]) -> list[Finding]:
    """All findings, in the order in which things build on each other. Changes nothing; takes a few seconds."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        lambda: iter([_python()]),
        lambda: iter([_java(env)]),
        lambda: iter([_jars(env)]),
        lambda: iter([_clickhouse_engine(env)]),
        lambda: iter([_disk(home)]),
        lambda: iter([_stack(home)]),
        lambda: _kafka(env),
        lambda: _clickhouse(env),
        lambda: _services(home),
        lambda: _forwarders(home),
    ]
    return [finding for check in checks for finding in check()]


def _python() -> Finding:
    version = platform.python_version()
    try:
        ours = importlib.metadata.version("pulsetrain")
    except importlib.metadata.PackageNotFoundError:
        return Finding("python", Verdict.PROBLEM, f"Python {version}, pulsetrain not installed", _INSTALL)
    return Finding("python", Verdict.OK, f"Python {version} ({sys.executable}), pulsetrain {ours}")


def _java(env: Mapping[str, str]) -> Finding:
    if env.get("PULSETRAIN_KAFKA"):
        return Finding("java", Verdict.OK, "not needed: PULSETRAIN_KAFKA names a Kafka")
    try:
        return Finding("java", Verdict.OK, str(find_java(env)))
    except NoJava as error:
        return Finding("java", Verdict.PROBLEM, "no Java of version 17 or later", str(error))


def _jars(env: Mapping[str, str]) -> Finding:
    if env.get("PULSETRAIN_KAFKA"):
        return Finding("kafka jars", Verdict.OK, "not needed: PULSETRAIN_KAFKA names a Kafka")
    present = kafka_jars.installed(env)
    if present is not None:
        return Finding("kafka jars", Verdict.OK, f"Apache Kafka {present.version} in {present.directory}")
    if importlib.util.find_spec("jgo") is None and shutil.which("mvn", path=env.get("PATH")) is None:
        return Finding("kafka jars", Verdict.PROBLEM, "not here, and neither jgo nor mvn to fetch them", _INSTALL)
    if not _has_network():
        return Finding(
            "kafka jars",
            Verdict.PROBLEM,
            "not here yet, and there is no network to fetch them over",
            f"connect once, or copy {kafka_jars.cache_directory(env)} from a machine that has it",
        )
    return Finding("kafka jars", Verdict.OK, "not here yet; the first `pulsetrain up` fetches 43 MB")


def _has_network() -> bool:
    from urllib.parse import urlsplit

    from jgo.constants import MAVEN_CENTRAL_URL

    place = urlsplit(MAVEN_CENTRAL_URL)
    try:
        with socket.create_connection((place.hostname, 443), timeout=3):
            return True
    except OSError:
        return bool(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"))


def _clickhouse_engine(env: Mapping[str, str]) -> Finding:
    if env.get("PULSETRAIN_CLICKHOUSE"):
        return Finding("engine", Verdict.OK, "not needed: PULSETRAIN_CLICKHOUSE names a ClickHouse")
    binary = clickhouse_server.find_binary(env)
    if binary is not None:
        return Finding("engine", Verdict.OK, f"ClickHouse at {binary}")
    if importlib.util.find_spec("chdb") is None:
        return Finding("engine", Verdict.PROBLEM, "neither a clickhouse binary nor chdb", _INSTALL)
    return Finding("engine", Verdict.OK, f"chdb {importlib.metadata.version('chdb')}, ClickHouse as a library")


def _disk(home: Home) -> Finding:
    place = home.root
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return Finding(
            "disk", Verdict.PROBLEM, f"{place} cannot be written to", "set PULSETRAIN_HOME to a place that can"
        )
    free = shutil.disk_usage(place).free
    detail = f"{free / _GIBIBYTE:.1f} GiB free at {home.root}"
    if free < _LEAST_SPACE:
        return Finding("disk", Verdict.PROBLEM, detail, "make room, or set PULSETRAIN_HOME to a larger place")
    return Finding("disk", Verdict.OK, detail)


def _stack(home: Home) -> Finding:
    try:
        running = addresses.running_stack(home.root)
    except addresses.AddressError as error:
        return Finding("stack", Verdict.PROBLEM, str(error), "`pulsetrain down`, then `pulsetrain up`")
    if running is None:
        state = "starting" if home.has_supervisor() else "not up; `pulsetrain up` starts it"
        return Finding("stack", Verdict.UNKNOWN, state)
    ailing = [entry for entry in running["services"] if entry["state"] not in ("running", "external")]
    if ailing:
        said = ", ".join(f"{entry['name']} is {entry['state']}" for entry in ailing)
        return Finding("stack", Verdict.PROBLEM, said, f"read the logs in {home.logs}")
    return Finding("stack", Verdict.OK, f"up, supervised by process {running['pid']}")


def _kafka(env: Mapping[str, str]) -> Iterator[Finding]:
    try:
        address = addresses.kafka(env)
    except addresses.AddressError as error:
        yield Finding("kafka", Verdict.PROBLEM, str(error), "correct PULSETRAIN_KAFKA")
        return
    if address is None:
        yield Finding("kafka", Verdict.UNKNOWN, "no address: neither PULSETRAIN_KAFKA nor a local stack that is up")
        return
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    try:
        admin = KafkaAdminClient(**address.client_config(), request_timeout_ms=5000, bootstrap_timeout_ms=5000)
    except (KafkaError, OSError, ValueError) as error:
        yield Finding(
            "kafka", Verdict.PROBLEM, f"{address} does not answer: {error}", "is it running, is the address right?"
        )
        return
    try:
        yield Finding("kafka", Verdict.OK, f"{address} answers")
        reports = topics.create_or_check(admin, create=False)
        wrong = [f"{report.topic.kafka_name} is {report.state}" for report in reports if report.state != "ok"]
        if wrong:
            yield Finding("topics", Verdict.PROBLEM, "; ".join(wrong), "`pulsetrain topics` creates what is missing")
        else:
            yield Finding("topics", Verdict.OK, f"all {len(reports)} are as they should be")
    except KafkaError as error:
        yield Finding("topics", Verdict.PROBLEM, f"they cannot be read: {error}", "may this user describe topics?")
    finally:
        admin.close()


def _clickhouse(env: Mapping[str, str]) -> Iterator[Finding]:
    try:
        address = addresses.clickhouse(env)
    except addresses.AddressError as error:
        yield Finding("clickhouse", Verdict.PROBLEM, str(error), "correct PULSETRAIN_CLICKHOUSE")
        return
    if address is None:
        yield Finding("clickhouse", Verdict.UNKNOWN, "no address: neither PULSETRAIN_CLICKHOUSE nor a stack that is up")
        return
    from clickhouse_driver import Client
    from clickhouse_driver.errors import Error

    client = Client(
        address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        secure=address.secure,
        connect_timeout=5,
        send_receive_timeout=10,
    )
    with contextlib.closing(_Closing(client)):
        try:
            before = time.time()
            ((version, theirs),) = client.execute("SELECT version(), toUnixTimestamp64Milli(now64(3)) / 1000")
            after = time.time()
            yield Finding("clickhouse", Verdict.OK, f"{address} answers: version {version}")
            yield _clock(before, float(theirs), after)
            yield _tables(env)
        except (Error, OSError, EOFError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            yield Finding("clickhouse", Verdict.PROBLEM, f"{address}: {lines[0]}", "is it running, is the login right?")


class _Closing:
    """clickhouse-driver's client under the name that contextlib.closing calls."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def close(self) -> None:
        self._client.disconnect()


def _clock(before: float, theirs: float, after: float) -> Finding:
    apart = max(0.0, before - theirs, theirs - after)
    if apart > _CLOCK_TOLERANCE:
        detail = f"this machine and ClickHouse are {apart:.0f} s apart"
        return Finding("clock", Verdict.PROBLEM, detail, "set both clocks by NTP, or times and latencies are wrong")
    return Finding("clock", Verdict.OK, f"in step with ClickHouse within {apart + after - before:.1f} s")


def _tables(env: Mapping[str, str]) -> Finding:
    command = pulsetrain_command("migrate", "--check")
    try:
        answer = subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return Finding("migrations", Verdict.PROBLEM, "`pulsetrain migrate --check` gave no answer", "try it by hand")
    said = "; ".join((answer.stdout or answer.stderr).strip().splitlines())
    if answer.returncode != 0:
        return Finding("migrations", Verdict.PROBLEM, said.removeprefix("Error: "), "`pulsetrain migrate`")
    return Finding("migrations", Verdict.OK, said)


def _services(home: Home) -> Iterator[Finding]:
    entries = {entry.get("name"): entry for entry in read_json(home.supervisor).get("services", ())}
    for name in ("writer", "monitor", "aggregator"):
        entry = entries.get(name)
        if entry is None or not home.has_supervisor():
            detail = "the local stack is not up, and where others run is not known here"
            yield Finding(name, Verdict.UNKNOWN, detail)
        elif says_ready(int(entry["address"].rpartition(":")[2])):
            yield Finding(name, Verdict.OK, f"ready, its metrics are at {entry['address']}/metrics")
        else:
            yield Finding(name, Verdict.PROBLEM, f"{entry['state']}, not ready", f"read {home.log(name)}")


def _forwarders(home: Home) -> Iterator[Finding]:
    found = list(forwarders(home.root))
    if not found:
        yield Finding("forwarders", Verdict.OK, "none runs and nothing waits for one")
    for forwarder in found:
        waiting = f"{forwarder.journals} journals to forward"
        log = Path(home.root, "forwarder", forwarder.destination, "forwarder.log")
        if not forwarder.alive:
            detail = f"{forwarder.destination}: none runs, {waiting}"
            yield Finding("forwarders", Verdict.PROBLEM, detail, "the next run starts one; `pulsetrain sync` does now")
        elif forwarder.broker == "away":
            detail = f"{forwarder.destination}: Kafka is away ({forwarder.detail}), {waiting}"
            yield Finding("forwarders", Verdict.PROBLEM, detail, f"is Kafka up? see {log}")
        else:
            detail = f"{forwarder.destination}: process {forwarder.pid}, broker {forwarder.broker}, {waiting}"
            yield Finding("forwarders", Verdict.OK, detail)
        if forwarder.notice:
            yield Finding("journals", Verdict.PROBLEM, forwarder.notice, "docs/journals.md says what goes when")
