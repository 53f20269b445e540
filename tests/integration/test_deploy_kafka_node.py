"""The Kafka node of compose and of the single-node overlay: its own start script and settings, on the real broker."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from pulsetrain_local import kafka, kafka_jars
from pulsetrain_local.java import NoJava, find_java
from pulsetrain_local.ports import HOST, free_ports
from pulsetrain_local.tether import tethered
from pulsetrain_schemas.topics import create_or_check
from tests.deploy_files import DEPLOY, compose, containers, kustomized, name_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

TOOLS = {"kafka-storage.sh": "kafka.tools.StorageTool", "kafka-server-start.sh": "kafka.Kafka"}


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kafka's own tools under the names that the image has them under, run from the jars of the local stack."""
    try:
        java = find_java()
        installed = kafka_jars.install(java)
    except (NoJava, kafka_jars.KafkaNotInstalled) as error:
        pytest.skip(f"the Kafka broker cannot run here: {error}")
    folder = tmp_path_factory.mktemp("bin")
    # As the local stack starts it, but for the class.
    command = kafka.prepare(folder / "made", kafka.BrokerPorts(*free_ports(2)), java, installed)
    for name, main in TOOLS.items():
        tool = folder / name
        tool.write_text(f'#!/bin/sh\nexec "{command[0]}" "{command[1]}" {main} "$@"\n')
        tool.chmod(0o755)
    return folder


@contextmanager
def _running(properties: Path, overrides: list[str], port: int, tools: Path) -> Iterator[None]:
    """start.sh, until the node answers."""
    log = properties.with_suffix(".log")
    with log.open("ab") as out:
        node = subprocess.Popen(
            tethered([str(DEPLOY / "kafka" / "start.sh"), str(properties), *overrides], os.getpid()),
            env={**os.environ, "KAFKA_BIN": str(tools)},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:

        def answers() -> bool:
            assert node.poll() is None, log.read_text(errors="replace")[-3000:]
            return kafka.answers(port)

        wait_for(answers, 60, "an answer of the node", 0.1)
        yield
    finally:
        node.terminate()
        node.wait(timeout=30)


def _elsewhere(properties: str, data: Path, ports: tuple[int, int, int]) -> str:
    """The settings with ports and a directory of the test's own; everything else as it is."""
    internal, external, controller = ports
    text = (
        properties.replace(":9092", f":{internal}").replace(":9094", f":{external}").replace(":9093", f":{controller}")
    )
    return re.sub(r"^log\.dirs=.*$", f"log.dirs={data}", text, flags=re.MULTILINE)


def test_it_formats_its_storage_once_takes_our_topics_and_keeps_what_it_was_given(tools: Path, tmp_path: Path):
    internal, external, controller = free_ports(3)
    properties = tmp_path / "server.properties"
    data = tmp_path / "data" / "log"
    properties.write_text(
        _elsewhere((DEPLOY / "kafka" / "server.properties").read_text(), data, (internal, external, controller))
    )
    command = compose()["services"]["kafka"]["command"]
    assert command[1] == "--override"
    advertised = f"INTERNAL://{HOST}:{internal},EXTERNAL://{HOST}:{external}"
    assert re.sub(r"=.*", "", command[2]) == "advertised.listeners"
    overrides = ["--override", f"advertised.listeners={advertised}"]
    with _running(properties, overrides, external, tools):
        admin = KafkaAdminClient(bootstrap_servers=f"{HOST}:{internal}")
        assert {report.state for report in create_or_check(admin)} == {"created"}
        admin.close()
        producer = KafkaProducer(bootstrap_servers=f"{HOST}:{external}", acks="all", max_request_size=17 << 20)
        producer.send("pulsetrain.dead_letters", bytes(16 << 20)).get(timeout=30)
        producer.close()
    formatted = (data / "meta.properties").read_text()
    with _running(properties, overrides, external, tools):
        consumer = KafkaConsumer(
            "pulsetrain.dead_letters",
            bootstrap_servers=f"{HOST}:{external}",
            auto_offset_reset="earliest",
            group_id="a-group",
        )
        deadline, found = time.monotonic() + 30, 0
        while not found and time.monotonic() < deadline:
            found = sum(len(entry.value) for entries in consumer.poll(500).values() for entry in entries)
        consumer.close()
        assert found == 16 << 20
    assert (data / "meta.properties").read_text() == formatted


def test_the_single_node_of_kubernetes_starts_with_its_overrides_too(tools: Path, tmp_path: Path):
    (node,) = (one for one in kustomized("single-node") if name_of(one) == "StatefulSet kafka")
    (container,) = containers(node)
    internal, external, controller = free_ports(3)
    properties = tmp_path / "server.properties"
    text = (DEPLOY / "kafka" / "server.properties").read_text()
    properties.write_text(_elsewhere(text, tmp_path / "data", (internal, external, controller)))
    overrides = [_elsewhere(word, tmp_path, (internal, external, controller)) for word in container["args"]]
    overrides = [word.replace("kafka.pulsetrain.svc.cluster.local", HOST) for word in overrides]
    with _running(properties, overrides, internal, tools):
        assert not kafka.answers(external)
        admin = KafkaAdminClient(bootstrap_servers=f"{HOST}:{internal}")
        assert {report.state for report in create_or_check(admin)} == {"created"}
        admin.close()
