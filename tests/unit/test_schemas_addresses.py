"""The contract of the environment: which variable counts, what an address says, and that no secret is ever shown."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pulsetrain_schemas import addresses
from pulsetrain_schemas.addresses import AddressError, ClickHouseAddress, KafkaAddress


def write_stack(home: Path, *, pid: int, started: float | None = None, **changes: object) -> None:
    home.mkdir(parents=True, exist_ok=True)
    stack = {
        "version": 1,
        "pid": pid,
        "started": time.time() if started is None else started,
        "environment": {
            "PULSETRAIN_HOME": str(home),
            "PULSETRAIN_KAFKA": "127.0.0.1:4242",
            "PULSETRAIN_CLICKHOUSE": "clickhouse://u:p@127.0.0.1:4243/pulsetrain",
        },
        "services": [],
    }
    addresses.stack_file(home).write_text(json.dumps(stack | changes))


def test_a_variable_of_ours_counts_before_the_one_of_wandb_and_an_empty_one_not_at_all():
    env = {"PULSETRAIN_PROJECT": "ours", "WANDB_PROJECT": "theirs", "PULSETRAIN_MODE": "", "WANDB_MODE": "offline"}
    assert addresses.environment("PROJECT", env) == "ours"
    assert addresses.environment("MODE", env) == "offline"
    assert addresses.environment("NAME", env) is None


def test_home_is_under_the_users_home_unless_it_is_given():
    assert addresses.home({"HOME": "/home/ada"}) == Path("/home/ada/.pulsetrain")
    assert addresses.home({"PULSETRAIN_HOME": "/srv/pt", "HOME": "/home/ada"}) == Path("/srv/pt")


@pytest.mark.parametrize(
    "url",
    [
        "clickhouse://default@db:9000/pulsetrain",
        "clickhouse://a%40b:p%2Fw%3A%23@db.example:9001/metrics",
        "clickhouses://u:p@[2001:db8::1]:9440/pulsetrain?compression=lz4&connect_timeout=5",
    ],
)
def test_a_clickhouse_url_is_written_as_it_was_read(url: str):
    assert ClickHouseAddress.parse(url).url() == url


def test_what_a_clickhouse_url_leaves_out_takes_its_default():
    address = ClickHouseAddress.parse("clickhouse://db")
    assert (address.user, address.password, address.port, address.database) == ("default", "", 9000, "pulsetrain")
    assert ClickHouseAddress.parse("clickhouses://db").port == 9440
    assert ClickHouseAddress.parse("clickhouse://db?secure=1").secure
    assert not ClickHouseAddress.parse("clickhouse://db?secure=false").secure


@pytest.mark.parametrize(
    "url",
    [
        "http://u:hunter2@db:8123",
        "clickhouse://u:hun/ter2@db:9000/x",
        "clickhouse://u:hunter2@db:port/x",
        "clickhouse://u:hunter2@:9000/x",
        "clickhouse://u:hunter2@db:9000/a/b",
        "clickhouse://u:hunter2@db:99999",
        "clickhouse://u:hunter2@db/x#y",
        "clickhouse://u:hunter2@[::1/x",
        "clickhouse://u:hunter2@db/x?secure=hunter2",
        "hunter2",
    ],
)
def test_a_wrong_clickhouse_url_is_refused_without_repeating_the_password(url: str):
    with pytest.raises(AddressError) as refused:
        ClickHouseAddress.parse(url)
    assert "hun" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_no_address_shows_a_secret():
    database = ClickHouseAddress.parse("clickhouse://u:hunter2@db/x")
    broker = addresses.kafka(
        {
            "PULSETRAIN_KAFKA": "a:9092",
            "PULSETRAIN_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "PULSETRAIN_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "PULSETRAIN_KAFKA_SASL_USERNAME": "ada",
            "PULSETRAIN_KAFKA_SASL_PASSWORD": "hunter2",
            "PULSETRAIN_KAFKA_SSL_PASSWORD": "hunter2",
        }
    )
    assert broker is not None
    for shown in (repr(database), str(database), repr(broker), str(broker), f"{database!r:>3}"):
        assert "hunter2" not in shown
    assert broker.client_config()["sasl_plain_password"] == "hunter2"


def test_kafka_settings_reach_the_client_under_its_own_names():
    broker = addresses.kafka(
        {
            "PULSETRAIN_KAFKA": "a:9092, b:9093",
            "PULSETRAIN_KAFKA_SSL_CAFILE": "/ca.pem",
            "PULSETRAIN_KAFKA_SSL_CHECK_HOSTNAME": "no",
        }
    )
    assert broker is not None
    assert broker.client_config() == {
        "bootstrap_servers": ["a:9092", "b:9093"],
        "ssl_cafile": "/ca.pem",
        "ssl_check_hostname": False,
    }


def test_every_kafka_setting_is_one_that_the_client_knows():
    from kafka import KafkaAdminClient

    assert set(addresses._KAFKA_SECURITY.values()) <= set(KafkaAdminClient.DEFAULT_CONFIG)


@pytest.mark.parametrize("servers", [",", "a:b", "kafka://u:hunter2@a:1", ":9092", "a:0", "a:70000"])
def test_wrong_bootstrap_servers_are_refused_without_repeating_them(servers: str):
    with pytest.raises(AddressError, match="host:port") as refused:
        addresses.kafka({"PULSETRAIN_KAFKA": servers})
    assert "hunter2" not in str(refused.value)


def test_a_stack_that_runs_is_found_without_any_variable(tmp_path: Path):
    env = {"PULSETRAIN_HOME": str(tmp_path)}
    assert addresses.kafka(env) is addresses.clickhouse(env) is None
    write_stack(tmp_path, pid=os.getpid())
    assert addresses.kafka(env) == KafkaAddress(("127.0.0.1:4242",))
    assert str(addresses.clickhouse(env)) == "clickhouse://u:***@127.0.0.1:4243/pulsetrain"
    env["PULSETRAIN_KAFKA"] = "elsewhere:9092"
    assert str(addresses.kafka(env)) == "elsewhere:9092"


def test_a_stack_whose_supervisor_is_dead_counts_as_absent_even_before_it_is_reaped(tmp_path: Path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_stack(tmp_path, pid=child.pid)
    assert addresses.running_stack(tmp_path) is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert addresses.running_stack(tmp_path) is None
    child.communicate()
    assert addresses.running_stack(tmp_path) is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_that_is_newer_than_the_stack_is_another_one_with_the_same_number(tmp_path: Path):
    write_stack(tmp_path, pid=os.getpid(), started=time.time() - 30 * 24 * 3600)
    assert addresses.running_stack(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "pid": "x"}', "\x00"])
def test_a_stack_file_that_is_none_is_named_with_what_to_do(tmp_path: Path, text: str):
    addresses.stack_file(tmp_path).write_text(text)
    with pytest.raises(AddressError, match=r"stack\.json .* `?(pulsetrain|up)"):
        addresses.running_stack(tmp_path)


def test_importing_it_needs_nothing_but_the_standard_library():
    code = (
        "import sys; import pulsetrain_schemas.addresses; "
        "print([m for m in ('numpy', 'fastavro', 'kafka', 'json', 'urllib.request') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
