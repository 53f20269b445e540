"""ClickHouse's users, as its own engine reads them (through the library that the embedded server has it from)."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.deploy_files import DEPLOY

USERS = DEPLOY / "clickhouse" / "users.d" / "pulsetrain.xml"
CONFIG = DEPLOY / "clickhouse" / "config.d" / "pulsetrain.xml"
START = DEPLOY / "clickhouse" / "start.sh"
PASSWORDS = {f"CLICKHOUSE_{user}_PASSWORD": f"of {user}" for user in ("WRITER", "READER", "GRAFANA")}

# The users of the image, to which ours are added, and one who may ask about them all.
BASE = """<clickhouse>
    <users><default>
        <password></password><networks><ip>::/0</ip></networks>
        <profile>default</profile><quota>default</quota><access_management>1</access_management>
    </default></users>
    <profiles><default/></profiles><quotas><default/></quotas>
</clickhouse>"""
SERVER = """<clickhouse>
    <users_config>{users}</users_config>
    <user_directories><users_xml><path>{users}</path></users_xml></user_directories>
</clickhouse>"""
# What migrations, the services and a rebuild do; EXCHANGE TABLES needs what CREATE, DROP, INSERT and SELECT need.
NEEDED = {
    "CREATE DATABASE",
    "CREATE TABLE",
    "CREATE VIEW",
    "DROP DATABASE",
    "DROP TABLE",
    "DROP VIEW",
    "TRUNCATE",
    "ALTER TABLE",
    "INSERT",
    "SELECT",
}
ASK = """
import json, sys
import chdb
connection = chdb.connect(sys.argv[1] + "?config-file=" + sys.argv[2])
print(json.dumps([json.loads(str(connection.query(sql, "JSONCompact")))["data"] for sql in sys.argv[3:]]))
"""


def _started(folder: Path, passwords: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """start.sh with a server that says what it was given."""
    server = folder / "clickhouse-server"
    server.write_text("#!/bin/sh\nenv\necho arguments=$*\n")
    server.chmod(0o755)
    env = {"PATH": "/usr/bin:/bin", "CLICKHOUSE_SERVER": str(server), **passwords}
    return subprocess.run([str(START), "--", "--x=y"], env=env, capture_output=True, text=True, check=False)


def _ask(folder: Path, *statements: str, without: str = "") -> "subprocess.CompletedProcess[str]":
    """What an engine with our users answers, a list of rows for each statement."""
    (folder / "users.d").mkdir()
    (folder / "users.xml").write_text(BASE)
    # Only a server knows this one: see config.d, which switches it on.
    users = USERS.read_text().replace("<changeable_in_readonly/>", "")
    (folder / "users.d" / "pulsetrain.xml").write_text(users)
    (folder / "config.xml").write_text(SERVER.format(users=folder / "users.xml"))
    command = [sys.executable, "-c", ASK, str(folder / "data"), str(folder / "config.xml"), *statements]
    started = _started(folder, PASSWORDS)
    given = dict(line.split("=", 1) for line in started.stdout.splitlines() if line.startswith("CLICKHOUSE_"))
    env = {**os.environ, **{name: value for name, value in given.items() if name != without}}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def _asked_by_services() -> set[str]:
    """The system tables that statements of ours name."""
    texts = (path.read_text() for path in (DEPLOY.parent / "consumers").rglob("*.py"))
    return {table for text in texts for table in re.findall(r"\bFROM system\.(\w+)", text)}


@pytest.mark.clickhouse
def test_clickhouse_takes_the_users_and_gives_them_what_they_need_and_no_more(tmp_path: Path):
    users = ("writer", "reader", "grafana")
    done = _ask(tmp_path, *(f"SHOW GRANTS FOR {user}" for user in users))
    assert done.returncode == 0, done.stderr[-2000:]
    writer, reader, grafana = ({row for (row,) in rows} for rows in json.loads(done.stdout))
    given = {re.sub(r" TO \w+$", "", row) for row in writer}
    for database in ("pulsetrain.*", "pulsetrain_rebuild_*.*"):
        (grant,) = (row for row in given if row.endswith(f" ON {database}"))
        assert set(grant.removeprefix("GRANT ").partition(" ON ")[0].split(", ")) >= NEEDED
    others = {row for row in given if " ON pulsetrain" not in row}
    assert others == {f"GRANT SELECT ON system.{table}" for table in _asked_by_services()}
    assert reader == {"GRANT SHOW, SELECT ON pulsetrain.* TO reader"}
    assert grafana == {
        "GRANT SHOW, SELECT ON pulsetrain.* TO grafana",
        "GRANT SELECT ON system.merges TO grafana",
        "GRANT SELECT ON system.parts TO grafana",
    }


@pytest.mark.clickhouse
def test_people_and_dashboards_only_read_for_so_long_with_so_much_memory_and_so_many_at_once(tmp_path: Path):
    done = _ask(
        tmp_path,
        "SELECT profile_name, setting_name, value, max FROM system.settings_profile_elements "
        "WHERE profile_name IN ('pulsetrain_reader', 'pulsetrain_grafana')",
        "SELECT name, apply_to_list FROM system.quotas WHERE name LIKE 'pulsetrain%' ORDER BY name",
        "SELECT quota_name, max_execution_time FROM system.quota_limits ORDER BY quota_name",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    elements, quotas, limits = json.loads(done.stdout)
    for profile, seconds in (("pulsetrain_reader", "300"), ("pulsetrain_grafana", "60")):
        settings = {name: value for of, name, value, _ in elements if of == profile and value is not None}
        assert settings["readonly"] == "1"
        assert settings["max_execution_time"] == seconds
        assert int(settings["max_memory_usage"]) <= 2_000_000_000
        assert int(settings["max_concurrent_queries_for_user"]) <= 50
        assert seconds in [most for of, name, _, most in elements if (of, name) == (profile, "max_execution_time")]
    assert [name for name, _ in quotas] == ["pulsetrain_grafana", "pulsetrain_reader", "pulsetrain_writer"]
    assert {name for name, most in limits if most} == {"pulsetrain_grafana", "pulsetrain_reader"}


@pytest.mark.clickhouse
def test_a_hash_that_is_missing_lets_nobody_in_but_keeps_the_server_from_starting(tmp_path: Path):
    done = _ask(tmp_path, "SELECT name FROM system.users", without="CLICKHOUSE_GRAFANA_SHA256")
    assert done.returncode != 0
    assert "grafana" in done.stderr


def test_the_server_is_given_hashes_in_place_of_passwords(tmp_path: Path):
    done = _started(tmp_path, PASSWORDS)
    assert done.returncode == 0, done.stderr
    assert "of WRITER" not in done.stdout
    assert f"CLICKHOUSE_WRITER_SHA256={hashlib.sha256(b'of WRITER').hexdigest()}\n" in done.stdout
    assert "arguments=--config-file=/etc/clickhouse-server/config.xml -- --x=y\n" in done.stdout


@pytest.mark.parametrize("missing", list(PASSWORDS))
def test_a_password_that_is_missing_or_empty_keeps_the_server_from_starting(missing: str, tmp_path: Path):
    for passwords in ({**PASSWORDS, missing: ""}, {name: PASSWORDS[name] for name in PASSWORDS if name != missing}):
        done = _started(tmp_path, passwords)
        assert done.returncode != 0
        assert done.stderr == f"{missing} is not set\n"


def test_grafana_s_plugin_may_set_how_long_a_query_may_take():
    for profile in ("pulsetrain_reader", "pulsetrain_grafana"):
        constraint = ET.parse(USERS).getroot().find(f"profiles/{profile}/constraints/max_execution_time")
        assert constraint is not None
        assert constraint.find("changeable_in_readonly") is not None
    replaces = ET.parse(CONFIG).getroot().findtext("access_control_improvements/settings_constraints_replace_previous")
    assert replaces == "true"


def test_nobody_without_a_password_comes_in_from_outside():
    for user in ET.parse(USERS).getroot().find("users") or ():
        networks = {ip.text for ip in user.iter("ip")}
        password = user.find("password_sha256_hex")
        if user.tag == "default":
            assert networks == {"127.0.0.1", "::1"}
        else:
            assert password is not None
            assert password.attrib == {"from_env": f"CLICKHOUSE_{user.tag.upper()}_SHA256"}
            assert password.text is None


def test_every_table_of_its_own_logs_ends_or_is_off():
    for table in ET.parse(CONFIG).getroot():
        if table.tag.endswith("_log"):
            assert table.get("remove") or re.search(r"INTERVAL \d+ DAY DELETE", table.findtext("ttl") or ""), table.tag


def test_what_dashboards_ask_of_system_tables_grafana_may_read():
    asked = {
        table
        for path in (DEPLOY / "grafana").rglob("*")
        if path.suffix in (".json", ".yaml")
        for table in re.findall(r"\bFROM (system\.\w+)", path.read_text())
    }
    granted = {query.text for query in ET.parse(USERS).getroot().findall("users/grafana/grants/query")}
    assert {f"GRANT SELECT ON {table}" for table in asked} <= granted
