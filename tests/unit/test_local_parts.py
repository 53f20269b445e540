"""The parts of the local stack that need no server: Java, ports, jars, the home, the plan, forwarders."""

import fcntl
import hashlib
import json
import os
import socket
import stat
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pulsetrain_local import clickhouse_server, doctor, kafka, kafka_jars, ports
from pulsetrain_local.forwarders import forwarders
from pulsetrain_local.home import Home, read_json
from pulsetrain_local.java import Java, NoJava, find_java, java_version
from pulsetrain_local.stack import KafkaRuntime, WantedPorts, choose_ports, plan, shipped_rules


def fake_java(directory: Path, version: str, *, release: bool = True) -> Path:
    """A Java home whose `java` says this version."""
    executable = directory / "bin" / "java"
    executable.parent.mkdir(parents=True)
    executable.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    executable.chmod(0o755)
    if release:
        (directory / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    return executable


@pytest.mark.parametrize(("text", "version"), [("1.8.0_392", 8), ("17.0.15", 17), ("21", 21), ("25-ea", 25)])
@pytest.mark.parametrize("release", [True, False], ids=["release file", "asked"])
def test_a_java_is_known_by_its_feature_version(tmp_path: Path, text: str, version: int, release: bool) -> None:
    assert java_version(fake_java(tmp_path / "jdk", text, release=release)) == version


def test_a_java_that_does_not_run_has_no_version(tmp_path: Path) -> None:
    assert java_version(tmp_path / "bin" / "java") is None


def test_java_home_comes_before_the_path(tmp_path: Path) -> None:
    fake_java(tmp_path / "one", "17.0.1")
    on_path = fake_java(tmp_path / "two", "21.0.1")
    found = find_java({"JAVA_HOME": str(tmp_path / "one"), "PATH": str(on_path.parent)})
    assert (found.version, found.source) == (17, "JAVA_HOME")


def test_a_java_that_is_too_old_is_passed_over(tmp_path: Path) -> None:
    fake_java(tmp_path / "old", "11.0.2")
    on_path = fake_java(tmp_path / "new", "21.0.1")
    assert find_java({"JAVA_HOME": str(tmp_path / "old"), "PATH": str(on_path.parent)}).version == 21


def test_without_any_java_the_error_says_what_was_found_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = fake_java(tmp_path / "old", "1.8.0")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(NoJava, match=r"is Java 8.*pip install 'pulsetrain\[local\]'.*PULSETRAIN_KAFKA"):
        find_java({"PATH": str(old.parent)})


def test_free_ports_differ_from_each_other_and_are_free() -> None:
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    assert all(ports.is_free(port) for port in found)


def test_a_taken_port_that_was_asked_for_is_named_with_the_way_out(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ports.PortInUse, match=rf"port {port}.*kafka.*in use.*--kafka-port"):
            choose_ports(home, WantedPorts(kafka=port))


def test_a_stack_that_comes_back_has_the_ports_it_had_unless_one_is_taken(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = choose_ports(home, WantedPorts())
    assert choose_ports(home, WantedPorts()) == first
    with socket.create_server(("127.0.0.1", first.clickhouse)):
        second = choose_ports(home, WantedPorts())
    assert second.clickhouse != first.clickhouse
    assert (second.kafka, second.writer) == (first.kafka, first.writer)


def test_the_password_is_random_kept_and_private(tmp_path: Path) -> None:
    one, two = Home(tmp_path / "one"), Home(tmp_path / "two")
    for home in (one, two):
        home.create()
    assert one.clickhouse_password() == one.clickhouse_password() != two.clickhouse_password()
    assert len(one.clickhouse_password()) >= 24
    assert stat.S_IMODE(one.password.stat().st_mode) == 0o600


def test_a_file_that_is_not_json_reads_as_empty(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text('{"pid": 1')
    assert read_json(tmp_path / "broken") == read_json(tmp_path / "absent") == {}


def test_the_listed_jars_are_one_kafka_with_sizes_and_checksums() -> None:
    jars = kafka_jars.listed_jars()
    assert len({jar.name for jar in jars}) == len(jars) > 40
    assert {jar.version for jar in jars if jar.group == "org.apache.kafka"} == {kafka_jars.kafka_version(jars)}
    assert all(len(jar.sha256) == 64 and jar.size > 1000 for jar in jars)


@pytest.fixture
def tiny_kafka(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment whose Maven repository holds the one jar that is wanted; no network or tool is needed."""

    content = b"not really a jar"
    jar = kafka_jars.Jar("org.apache.kafka", "kafka_2.13", "4.9.9", len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(kafka_jars, "listed_jars", lambda: (jar,))
    monkeypatch.setattr(kafka_jars, "_format", lambda _java, installation: installation.formatted.mkdir())
    repository = tmp_path / "m2"
    (repository / jar.path).parent.mkdir(parents=True)
    (repository / jar.path).write_bytes(content)
    return {"M2_REPO": str(repository), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": ""}


ANY_JAVA = Java(Path("/bin/true"), 17, "PATH")


def test_two_first_starts_at_a_time_make_one_installation(tiny_kafka: dict[str, str]) -> None:
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(kafka_jars.install(ANY_JAVA, None, tiny_kafka).directory))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len(set(made)) == 1
    assert sorted(path.name for path in made[0].iterdir()) == ["formatted", "jars"]
    assert [path.name for path in made[0].parent.iterdir() if path.is_dir()] == ["kafka-4.9.9"]


def test_a_jar_with_other_bytes_is_refused_and_nothing_is_left(
    tiny_kafka: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for jar in Path(tiny_kafka["M2_REPO"]).rglob("*.jar"):
        jar.write_bytes(b"tampered with it")
    monkeypatch.setattr(kafka_jars, "_fetch_with_jgo", lambda *_: "no network")
    with pytest.raises(kafka_jars.KafkaNotInstalled, match=r"no network.*Is there a network.*PULSETRAIN_KAFKA"):
        kafka_jars.install(ANY_JAVA, None, tiny_kafka)
    cache = Path(tiny_kafka["XDG_CACHE_HOME"]) / "pulsetrain"
    assert [path.name for path in cache.iterdir()] == ["kafka-4.9.9.lock"]


def test_a_cache_that_cannot_be_written_is_named(tiny_kafka: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a directory is to be")
    with pytest.raises(kafka_jars.KafkaNotInstalled, match="Kafka cannot be kept in"):
        kafka_jars.install(ANY_JAVA, None, tiny_kafka)


def test_the_broker_listens_on_loopback_alone_and_takes_eight_mebibytes(tmp_path: Path) -> None:
    settings = kafka.settings(tmp_path, kafka.BrokerPorts(1234, 1235))
    assert settings["listeners"] == "PLAINTEXT://127.0.0.1:1234,CONTROLLER://127.0.0.1:1235"
    assert settings["advertised.listeners"] == "PLAINTEXT://127.0.0.1:1234"
    assert settings["message.max.bytes"] == 8 * 1024 * 1024


def test_a_clickhouse_configuration_is_xml_on_loopback_without_the_password(tmp_path: Path) -> None:
    text = clickhouse_server.configuration(
        tmp_path / "a & b", clickhouse_server.ServerPorts(9001, 8124), "secret", "another"
    )
    tree = ET.fromstring(text)
    assert tree.findtext("listen_host") == "127.0.0.1"
    assert tree.findtext("tcp_port") == "9001"
    assert tree.findtext("http_port") == "8124"
    assert tree.findtext("path") == f"{tmp_path}/a & b/"
    assert "secret" not in text
    assert "another" not in text
    assert tree.findtext("users/grafana/profile") == "reader"
    assert tree.findtext("profiles/reader/readonly") == "1"


@pytest.mark.parametrize(("said", "found"), [("24.8.1.1", True), ("18.16.1", False)])
def test_a_clickhouse_binary_counts_when_its_server_is_recent(tmp_path: Path, said: str, found: bool) -> None:
    binary = tmp_path / "clickhouse"
    binary.write_text(f"#!/bin/sh\necho 'ClickHouse server version {said} (official build).'\n")
    binary.chmod(0o755)
    assert clickhouse_server.find_binary({"PATH": f"{tmp_path}"}) == (binary if found else None)


def runtime(tmp_path: Path) -> KafkaRuntime:
    return KafkaRuntime(ANY_JAVA, kafka_jars.KafkaInstallation(tmp_path / "kafka", "4.9.9"))


def test_addresses_that_are_given_are_used_and_nothing_is_started_in_their_place(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    env = {
        "PATH": "",
        "PULSETRAIN_KAFKA": "far:9092",
        "PULSETRAIN_CLICKHOUSE": "clickhouse://me:hidden@away:9000/pulsetrain",
    }
    made = plan(home, choose_ports(home, WantedPorts()), None, env)
    assert [program.name for program in made.programs] == ["topics", "migrate", "writer", "monitor", "aggregator"]
    assert {given.name: given.address for given in made.given} == {
        "kafka": "far:9092",
        "clickhouse": "clickhouse://me:***@away:9000/pulsetrain",
    }
    assert made.environment["PULSETRAIN_CLICKHOUSE"].startswith("clickhouse://me:hidden@")


def test_the_services_know_where_each_other_is_and_the_password_is_on_no_command_line(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    ports_ = choose_ports(home, WantedPorts())
    made = plan(home, ports_, runtime(tmp_path), {"PATH": ""})
    by_name = {program.name: program for program in made.programs}
    assert list(by_name) == ["kafka", "clickhouse", "topics", "migrate", "writer", "monitor", "aggregator"]
    assert by_name["writer"].environment["PULSETRAIN_KAFKA"] == f"127.0.0.1:{ports_.kafka}"
    assert by_name["writer"].after == {"topics", "migrate"}
    password = home.clickhouse_password()
    assert password in by_name["writer"].environment["PULSETRAIN_CLICKHOUSE"]
    for name in ("clickhouse", "topics", "migrate", "writer"):
        assert not any(password in argument for argument in by_name[name].command())


def test_the_monitor_watches_by_the_rules_that_are_shipped_and_by_the_users_where_there_are_some(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path / "home")
    home.create()
    made = plan(home, choose_ports(home, WantedPorts()), runtime(tmp_path), {"PATH": ""})
    (monitor,) = (program for program in made.programs if program.name == "monitor")
    assert monitor.command()[-2:] == ["--rules", str(shipped_rules())]
    home.rules.mkdir()
    assert monitor.command()[-4:] == ["--rules", str(shipped_rules()), "--rules", str(home.rules)]


def test_forwarders_are_told_by_their_locks_and_status_files(tmp_path: Path) -> None:
    place = tmp_path / "forwarder" / "local"
    (place / "writers").mkdir(parents=True)
    (place / "writers" / "abc.json").write_text("{}")
    (place / "status.json").write_text(json.dumps({"pid": os.getpid(), "broker": "away", "detail": "refused"}))
    (place / "lock").touch()
    (dead,) = forwarders(tmp_path)
    assert (dead.alive, dead.journals) == (False, 1)
    with (place / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (alive,) = forwarders(tmp_path)
    assert (alive.alive, alive.broker, alive.to_json()["pid"]) == (True, "away", os.getpid())


def test_a_forwarder_that_is_about_to_lack_room_is_a_problem_to_the_doctor(tmp_path: Path) -> None:
    place = tmp_path / "forwarder" / "local"
    place.mkdir(parents=True)
    said = {"pid": os.getpid(), "broker": "connected", "notice": "the journals take 9 of 10 GiB"}
    (place / "status.json").write_text(json.dumps(said))
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        findings = list(doctor._forwarders(Home(tmp_path)))
    assert [(finding.subject, finding.verdict) for finding in findings] == [
        ("forwarders", doctor.Verdict.OK),
        ("journals", doctor.Verdict.PROBLEM),
    ]
    assert findings[1].detail == "the journals take 9 of 10 GiB"


def test_what_a_killed_installation_left_is_cleared_away(tiny_kafka: dict[str, str]) -> None:
    cache = Path(tiny_kafka["XDG_CACHE_HOME"]) / "pulsetrain"
    (cache / "kafka-4.9.9.abandoned" / "jars").mkdir(parents=True)
    made = kafka_jars.install(ANY_JAVA, None, tiny_kafka)
    assert [path for path in cache.iterdir() if path.is_dir()] == [made.directory]
