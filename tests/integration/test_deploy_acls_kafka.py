"""A real broker with exactly the ACLs of deploy/kafka/acls.sh: everything works, and nothing else is allowed."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from kafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError

from pulsetrain_consumers.clickhouse import connect
from pulsetrain_consumers.clickhouse.migrate import migrate
from pulsetrain_local import kafka
from pulsetrain_local.ports import free_ports
from pulsetrain_schemas.addresses import ClickHouseAddress
from tests.certificates import certificates
from tests.clickhouse_fixture import ClickHouse
from tests.deploy_files import DEPLOY
from tests.kafka_acls import USER_PREFIX, acls
from tests.pipeline_rig import WriterProcess
from tests.stack_fixture import Broker
from tests.waiting import wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.timeout(240)]

USERS = ("producer", "writer", "aggregator", "monitor", "admin")
MECHANISM = "SCRAM-SHA-512"
TRAINING = """
import pulsetrain
with pulsetrain.init(project="acls", id="{run_id}") as run:
    for step in range(100):
        run.log({{"loss": 1.0 / (step + 1)}}, step=step)
"""


def _properties(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if re.match(r"[^#\s]", line))


class SecuredBroker(Broker):
    """The broker of the local stack, and what server.sasl.properties says of logins and rights.

    Who comes over the first one, without a login, may do everything: that is the test itself.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (self.login_port,) = free_ports(1)
        self.certificates = certificates(directory / "certificates")

    @property
    def login_address(self) -> str:
        return f"{kafka.HOST}:{self.login_port}"

    def command(self) -> list[str]:
        command = super().command()
        properties = self.directory / "server.properties"
        given: dict[str, object] = {**_properties(properties)}
        asked = _properties(DEPLOY / "kafka" / "server.sasl.properties")
        login = f"CLIENTS://{self.login_address}"
        listeners, advertised = given["listeners"], given["advertised.listeners"]
        protocols = asked["listener.security.protocol.map"].split(",")
        (protocol,) = (one for one in protocols if one.startswith("CLIENTS:"))
        # All that it says of clients, of certificates and of rights; brokers among themselves are one here.
        given |= {name: value for name, value in asked.items() if re.match(r"sasl|listener\.name\.clients|ssl|a", name)}
        given |= {
            "listener.security.protocol.map": f"PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,{protocol}",
            "listeners": f"{listeners},{login}",
            "advertised.listeners": f"{advertised},{login}",
            "ssl.keystore.location": self.certificates.server,
            "ssl.truststore.location": self.certificates.authority,
            "super.users": "User:ANONYMOUS",
        }
        properties.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
        return command


class Secured:
    """The broker, its users, and a database with the tables."""

    def __init__(self, broker: SecuredBroker, clickhouse: ClickHouse, directory: Path) -> None:
        self.broker = broker
        self.directory = directory
        self.writers: list[WriterProcess] = []
        database = f"acls_{uuid4().hex[:8]}"
        self.address = ClickHouseAddress(
            clickhouse.host, clickhouse.port, clickhouse.user, clickhouse.password, database
        )
        migrate(self.address)

    def client(self, user: str) -> dict[str, object]:
        """The arguments of a client of kafka-python's that logs in as a user."""
        return {
            "bootstrap_servers": self.broker.login_address,
            "security_protocol": "SASL_SSL",
            "ssl_cafile": str(self.broker.certificates.authority),
            "sasl_mechanism": MECHANISM,
            "sasl_plain_username": USER_PREFIX + user,
            "sasl_plain_password": f"of {user}",
            "bootstrap_timeout_ms": 10_000,
        }

    def env(self, user: str) -> dict[str, str]:
        """The environment of a process that logs in as a user, as deploy/kafka/client.sasl.env has it."""
        home = self.directory / user
        return {
            **os.environ,
            **_properties(DEPLOY / "kafka" / "client.sasl.env"),
            "PULSETRAIN_KAFKA": self.broker.login_address,
            "PULSETRAIN_KAFKA_SSL_CAFILE": str(self.broker.certificates.authority),
            "PULSETRAIN_KAFKA_SASL_USERNAME": USER_PREFIX + user,
            "PULSETRAIN_KAFKA_SASL_PASSWORD": f"of {user}",
            "PULSETRAIN_CLICKHOUSE": self.address.url(),
            "PULSETRAIN_HOME": str(home / "home"),
            "PULSETRAIN_DIR": str(home / "runs"),
        }

    def pulsetrain(self, user: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "pulsetrain.commands", *arguments]
        return subprocess.run(command, env=self.env(user), capture_output=True, text=True, check=False, timeout=60)

    def service(self, name: str) -> WriterProcess:
        """A service, logged in as its user, that is ready."""
        pipeline = _Environment(self.directory, self.env(name))
        process = WriterProcess(pipeline, len(self.writers), (), "pulsetrain.commands", {}, name)  # type: ignore[arg-type]
        self.writers.append(process)
        return process.wait_ready()

    def train(self, run_id: str) -> None:
        """A run, from a training machine."""
        done = subprocess.run(
            [sys.executable, "-c", TRAINING.format(run_id=run_id)],
            env=self.env("producer"),
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr


class _Environment:
    """What a service needs to know of a pipeline."""

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        self.directory = directory
        self.env = env


def _give_rights(broker: SecuredBroker) -> None:
    """Makes the users, and does what acls.sh would have Kafka's tool do."""
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    try:
        admin.alter_user_scram_credentials(
            [
                UserScramCredentialUpsertion(USER_PREFIX + user, ScramMechanism.SCRAM_SHA_512, f"of {user}")
                for user in USERS
            ]
        )
        patterns = {True: ACLResourcePatternType.PREFIXED, False: ACLResourcePatternType.LITERAL}
        operations = {name.replace("_", "").lower(): one for name, one in ACLOperation.__members__.items()}
        created = admin.create_acls(
            [
                ACL(
                    f"User:{USER_PREFIX}{one.user}",
                    "*",
                    operations[one.operation.lower()],
                    ACLPermissionType.ALLOW,
                    ResourcePattern(ResourceType[one.resource.upper()], one.name, patterns[one.prefixed]),
                )
                for one in acls()
            ]
        )
        assert not created["failed"], created
    finally:
        admin.close()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, clickhouse_server: ClickHouse) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    broker = SecuredBroker(directory / "kafka")
    broker.start()
    try:
        _give_rights(broker)
        secured = Secured(broker, clickhouse_server, directory)
        made = secured.pulsetrain("admin", "topics", "--json", "--replication-factor", "1")
        assert made.returncode == 0, made.stderr
        assert {row["state"] for row in json.loads(made.stdout)} == {"created"}
        yield secured
        for process in secured.writers:
            process.kill()
    finally:
        broker.stop()


def test_a_run_is_stored_and_summed_up_and_watched_with_these_rights(secured: Secured):
    services = {name: secured.service(name) for name in ("writer", "aggregator", "monitor")}
    run_id = uuid4().hex[:8]
    secured.train(run_id)
    with connect(secured.address) as client:

        def count(table: str) -> int:
            sql = f"SELECT count() FROM {table} WHERE run_id = %(run_id)s"
            return int(client.query(sql, {"run_id": run_id}).one())

        wait_for(lambda: count("metrics") == 100, 30, "100 points")
        wait_for(lambda: count("metric_pyramid") > 0, 60, "the aggregates of the run")
        (state,) = client.query("SELECT state FROM runs WHERE run_id = %(run_id)s", {"run_id": run_id}).rows[0]
        assert state == "finished"
    assert services["monitor"].told("pulsetrain_monitor_points_total") == 100
    for process in services.values():
        assert process.get("/readyz")[0] == 200
        assert "AuthorizationFailed" not in process.log


def test_the_writer_puts_aside_what_it_cannot_read(secured: Secured):
    producer = KafkaProducer(**secured.client("producer"))
    producer.send("pulsetrain.metrics", b"nonsense").get(timeout=20)
    producer.close()
    writer = secured.service("writer")
    with connect(secured.address) as client:
        wait_for(lambda: client.query("SELECT count() FROM dead_letters").one() == 1, 30, "a dead letter", 0.1)
    assert "AuthorizationFailed" not in writer.log


def test_the_admin_checks_the_topics_and_may_stop_a_run(secured: Secured):
    assert secured.pulsetrain("admin", "topics", "--check").returncode == 0
    assert secured.pulsetrain("admin", "topics", "--partitions", "media=3").returncode == 0
    producer = KafkaProducer(**secured.client("admin"))
    producer.send("pulsetrain.control", b"", b"key").get(timeout=20)
    producer.close()


@pytest.mark.parametrize(
    ("user", "topic"),
    [
        ("producer", "metrics"),
        ("producer", "runs"),
        ("producer", "dead_letters"),
        ("aggregator", "logs"),
        ("monitor", "logs"),
        ("monitor", "dead_letters"),
        ("writer", "control"),
    ],
)
def test_nobody_reads_what_is_not_theirs(user: str, topic: str, secured: Secured):
    admin = KafkaAdminClient(**secured.client(user))
    try:
        (described,) = admin.describe_topics([f"pulsetrain.{topic}"])
    finally:
        admin.close()
    if described["error_code"] == TopicAuthorizationFailedError.errno:
        return  # it is not even told that there is such a topic
    consumer = KafkaConsumer(**secured.client(user))
    try:
        partition = TopicPartition(f"pulsetrain.{topic}", 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        with pytest.raises(TopicAuthorizationFailedError):
            wait_for(lambda: consumer.poll(timeout_ms=500), 20, "a refusal")
    finally:
        consumer.close()


@pytest.mark.parametrize(
    ("user", "topic"),
    [
        ("producer", "control"),
        ("producer", "alerts"),
        ("writer", "metrics"),
        ("aggregator", "dead_letters"),
        ("monitor", "control"),
    ],
)
def test_nobody_writes_what_is_not_theirs(user: str, topic: str, secured: Secured):
    producer = KafkaProducer(**secured.client(user), max_block_ms=10_000)
    try:
        with pytest.raises(KafkaError, match="AuthorizationFailed"):
            producer.send(f"pulsetrain.{topic}", b"not allowed").get(timeout=20)
    finally:
        producer.close(timeout=1)


@pytest.mark.parametrize(("user", "group"), [("producer", "pulsetrain-writer"), ("aggregator", "pulsetrain-writer")])
def test_nobody_joins_the_group_of_another(user: str, group: str, secured: Secured):
    consumer = KafkaConsumer("pulsetrain.runs", **secured.client(user), group_id=group)
    try:
        with pytest.raises((GroupAuthorizationFailedError, TopicAuthorizationFailedError)):
            wait_for(lambda: consumer.poll(timeout_ms=500), 20, "a refusal")
    finally:
        consumer.close(autocommit=False)


def test_nobody_but_the_admin_makes_topics(secured: Secured):
    done = secured.pulsetrain("writer", "topics")
    assert done.returncode == 1
    assert "AuthorizationFailed" in done.stderr
