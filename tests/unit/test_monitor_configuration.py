"""What monitor.yaml may say, and what a person reads who wrote something else."""

from pathlib import Path

import pytest

from pulsetrain_consumers.monitor import configuration
from pulsetrain_consumers.monitor.configuration import ConfigurationError, read, read_rules
from pulsetrain_consumers.monitor.notifications import Route
from pulsetrain_consumers.monitor.sinks.mail import Mail
from pulsetrain_consumers.monitor.sinks.web import Web

ENV = {
    "HOOK": "https://hooks.example.org/services/T0/B0/xyz",
    "SECRET": "whsec_MDEyMzQ1Njc4OQ==",
    "EMPTY": "",
    "PASSWORD": "p%40ss",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "monitor.yaml"


def routes(file: Path, text: str) -> list[Route]:
    file.write_text(text, encoding="utf-8")
    return list(read(file, ENV).routes)


def test_a_file_says_where_alerts_are_sent(file: Path):
    found = routes(
        file,
        """
        # alerts
        notify:
          - webhook: ${HOOK}
            secret: ${SECRET}
            severity: warning
            projects: [vision-*, 한국어-*]
            kinds: nan
          - severity: critical
            slack: ${HOOK}
          - discord: https://discord.example.org/x
            ends: false
          - mail: [ml@example.org, 운영@example.org]
            server: smtp://user:${PASSWORD}@mail.example.org:25
            sender: pulsetrain@example.org
          - mail: one@example.org
            server: smtps://mail.example.org
            sender: pulsetrain@example.org
        """,
    )
    assert [route.sink.name for route in found] == ["webhook hooks.example.org", "slack", "discord", "e-mail", "e-mail"]
    webhook, slack, discord, mail, one = found
    assert isinstance(webhook.sink, Web)
    assert webhook.sink.url == ENV["HOOK"]
    assert (webhook.severity, webhook.projects, webhook.kinds, webhook.ends) == (
        ("warning", ["vision-*", "한국어-*"], ["nan"], True)
    )
    assert (slack.severity, slack.projects, slack.kinds) == ("critical", ["*"], ["*"])
    assert not discord.ends
    assert isinstance(mail.sink, Mail)
    assert isinstance(one.sink, Mail)
    assert mail.sink.server == "smtp://user:p%40ss@mail.example.org:25"
    assert (mail.sink.to, one.sink.to) == (["ml@example.org", "운영@example.org"], ["one@example.org"])
    assert "xyz" not in repr(found)
    assert "p%40ss" not in repr(found)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "notify:\n", "notify: []\n", "{}\n"])
def test_a_file_that_says_nothing_sends_nowhere(file: Path, text: str):
    assert routes(file, text) == []


WEBHOOK = "notify: [{webhook: 'https://h/x', %s}]"
MAIL = "notify: [{mail: a@x, server: smtp://h, sender: b@x, %s}]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("notify: [", "is no YAML: line 1, column 10"),
        ("a: b: c", "is no YAML: line 1, column 5"),
        ("\tx: 1", "is no YAML: line 1, column 1"),
        ("!!python/object:os.system {}", "is no YAML"),
        ("- webhook: https://h/x", "the file is no mapping of names to values"),
        ("notify", "the file is no mapping of names to values"),
        ("notfy: []", "the file has notfy; known are notify"),
        ("{notify: [], 알림: []}", "the file has 알림; known are notify"),
        ("notify: {webhook: 'https://h/x'}", "notify is a list"),
        ("notify: https://h/x", "notify is a list"),
        ("notify: [https://h/x]", "notify, entry 1 names one of webhook, slack, discord, mail"),
        ("notify: [null]", "notify, entry 1 names one of webhook, slack, discord, mail"),
        ("notify: [{pager: x}]", "notify, entry 1 names one of webhook, slack, discord, mail"),
        ("notify: [{slack: 'https://h/x', webhook: 'https://h/x'}]", "notify, entry 1 names one of"),
        ("notify: [{slack: 'https://h/x'}, {slack: 'https://h/x', secret: s}]", "entry 2 has secret; known are slack,"),
        (WEBHOOK % "project: x", "entry 1 has project; known are webhook, secret, severity, projects, kinds, ends"),
        (WEBHOOK % "severity: bad", "severity is one of info, warning, critical, not 'bad'"),
        (WEBHOOK % "severity: [info]", "severity is one of info, warning, critical, not"),
        (WEBHOOK % "severity: null", "severity is one of info, warning, critical, not None"),
        (WEBHOOK % "ends: 'no'", "ends is true or false, not 'no'"),
        (WEBHOOK % "projects: 7", "projects is a list of names, in which * stands for anything"),
        (WEBHOOK % "projects: {a: b}", "projects is a list of names"),
        (WEBHOOK % "kinds: [nan, .nan]", "kinds is a list of names"),
        (WEBHOOK % "secret: 123456", "secret is text, in quotes where it looks like a number"),
        (WEBHOOK % "secret: [x]", "secret is text"),
        (WEBHOOK % "secret: whsec_%%", "secret is not right: what follows whsec_ is not base64"),
        (WEBHOOK % "secret: '${EMPTY}'", "secret is not right: it is empty"),
        (WEBHOOK % "secret: '${NOWHERE}'", "notify, entry 1: the environment has no NOWHERE"),
        (WEBHOOK % "secret: '${NO-WHERE}'", "the environment has no NO-WHERE"),
        (WEBHOOK % "secret: '${}'", "the environment has no "),
        ("notify: [{slack: null}]", "slack is an address that begins with http:// or https://"),
        ("notify: [{slack: '${EMPTY}'}]", "slack is an address that begins with http:// or https://"),
        ("notify: [{slack: hooks.example.org}]", "slack is an address that begins with"),
        ("notify: [{webhook: 'file:///etc/passwd'}]", "webhook is an address that begins with"),
        ("notify: [{webhook: 'https:///x'}]", "webhook is an address that begins with"),
        ("notify: [{webhook: 'https://[h/x'}]", "webhook is an address that begins with"),
        ("notify: [{webhook: 'https://h:port/x'}]", "webhook is an address that begins with"),
        ("notify: [{webhook: 'https://h:99999/x'}]", "webhook is an address that begins with"),
        ("notify: [{webhook: ' https://h/x'}]", "webhook is an address that begins with"),
        ("notify: [{discord: [https://h/x]}]", "discord is an address that begins with"),
        ("notify: [{mail: []}]", "mail is an address, or a list of them"),
        ("notify: [{mail: [7]}]", "mail is an address, or a list of them"),
        ("notify: [{mail: null}]", "mail is an address, or a list of them"),
        ("notify: [{mail: a@x}]", "server is smtp://HOST or smtps://HOST, with USER:PASSWORD@ where it asks"),
        ("notify: [{mail: a@x, server: 'https://h'}]", "server is smtp://HOST or smtps://HOST"),
        ("notify: [{mail: a@x, server: 'smtp://u:pa/ss@h', sender: b@x}]", "server is smtp://HOST or smtps://HOST"),
        ("notify: [{mail: a@x, server: 'smtp://h'}]", "sender is the address that mail comes from"),
        ('notify: [{mail: "a@x\\nBcc: c@x", server: smtp://h, sender: b@x}]', "an address of mail is one line"),
        ('notify: [{mail: a@x, server: smtp://h, sender: ""}]', "an address of mail is one line"),
        (MAIL % "to: c@x", "entry 1 has to; known are mail, server, sender, severity, projects, kinds, ends"),
    ],
)
def test_what_cannot_be_is_said_with_the_place_where_it_is(file: Path, text: str, message: str):
    with pytest.raises(ConfigurationError) as error:
        routes(file, text)
    assert message in str(error.value)
    assert str(error.value).startswith(str(file))


def test_what_is_secret_is_in_no_message(file: Path):
    for text in (
        "notify: [{webhook: 'https://h/SECRET': x}]",
        "notify:\n  - webhook: https://h/SECRET\n   secret: SECRET\n",
        "notify: [{webhook: 'https://u:SECRET@h:SECRET/x'}]",
        "notify: [{webhook: 'https://h/SECRET', secret: 'whsec_SECRET!'}]",
        "notify: [{mail: a@x, server: 'smtp://u:SECRET/@h', sender: b@x}]",
    ):
        with pytest.raises(ConfigurationError) as error:
            routes(file, text)
        assert "SECRET" not in str(error.value), text


def test_a_file_that_cannot_be_read_says_why(file: Path):
    with pytest.raises(ConfigurationError, match="cannot be read: No such file or directory"):
        read(file, ENV)
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        read(file.parent, ENV)
    file.write_bytes(b"notify: \xff\xfe")
    with pytest.raises(ConfigurationError, match="is no YAML"):
        read(file, ENV)


def test_grafana_is_told_by_its_address():
    assert configuration.grafana("http://token@localhost:3000").sink.name == "grafana"
    with pytest.raises(ConfigurationError, match=r"PULSETRAIN_GRAFANA is no address: it is http://TOKEN@HOST") as error:
        configuration.grafana("SECRET@localhost:3000")
    assert "SECRET" not in str(error.value)


# --- rules and silences

ACC = "{name: acc, metric: acc, condition: < 1}"


def written(directory: Path, **files: str) -> Path:
    """A directory with *.yaml files, each with a list of rules."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, rules in files.items():
        (directory / f"{name}.yaml").write_text(f"rules: [{rules}]", encoding="utf-8")
    return directory


def test_rules_come_from_the_file_and_from_all_files_of_directories(tmp_path: Path, file: Path):
    file.write_text(f"rules: [{ACC}]", encoding="utf-8")
    shipped = written(tmp_path / "a", one="{name: disk, system: disk_used_percent, condition: '> 90'}", two="")
    (shipped / "notes.txt").write_text("no rules")
    own = written(tmp_path / "b", mine="{name: loss, metric: loss, condition: '> 9'}")
    found = read_rules([shipped, own], read(file, ENV).rules)
    assert [(rule.name, rule.threshold) for rule in found] == [("disk", 90), ("loss", 9), ("acc", 1)]


def test_what_comes_later_takes_the_place_of_a_name_or_switches_it_off(tmp_path: Path, file: Path):
    two, three = (ACC.replace("acc,", f"{name},", 1) for name in ("two", "three"))
    shipped = written(tmp_path / "a", one=f"{ACC}, {two}, {three}")
    own = written(tmp_path / "b", one="{name: acc, metric: acc, condition: < 5}, {name: two, enabled: false}")
    file.write_text("rules: [{name: three, enabled: false, metric: x, condition: '> 1'}]", encoding="utf-8")
    found = read_rules([shipped, own], read(file, ENV).rules)
    assert [(rule.name, rule.threshold) for rule in found] == [("acc", 5)]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("{name: x}", r"one.yaml: rules, entry 1 \(x\) names either a metric, or a system metric"),
        (f"{ACC}, 3", "one.yaml: rules, entry 2 is no mapping"),
        ("{name: gpu, system: gpu_temp, condition: '> 80'}", "is one of these meant: temperature_celsius"),
        (f"{ACC}, {ACC}", "one.yaml: rules, entry 2: there is a rule acc before it: give it another name"),
        ("{enabled: false}", "enabled is true or false, beside the name of the rule"),
        ("{name: x, enabled: 3}", "enabled is true or false, beside the name of the rule"),
        ("{", "one.yaml is no YAML: line 1"),
        ("{name: x, metric: y, condition: > 1}", "a condition that begins with > stands in quotes"),
    ],
)
def test_a_rule_that_cannot_be_is_said_with_its_file_and_its_name(tmp_path: Path, rules: str, message: str):
    with pytest.raises(ConfigurationError, match=message):
        read_rules([written(tmp_path / "rules", one=rules)], {})


def test_a_name_is_in_one_file_of_a_directory_and_a_directory_is_there(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"two\.yaml: one\.yaml has a rule acc too: give it another name"):
        read_rules([written(tmp_path / "rules", one=ACC, two=ACC)], {})
    with pytest.raises(ConfigurationError, match="missing is no directory"):
        read_rules([tmp_path / "missing"], {})
    (tmp_path / "notify").mkdir()
    (tmp_path / "notify" / "x.yaml").write_text("notify: []")
    with pytest.raises(ConfigurationError, match=r"x\.yaml: the file has notify; known are rules"):
        read_rules([tmp_path / "notify"], {})


def test_silences_stand_in_the_file(file: Path):
    file.write_text(
        """
        silences:
          - kind: plateau
            project: toy-*
            reason: nobody minds
          - {run: r1, until: 2026-12-01}
          - {subject: "disk*", until: 2026-12-01T08:00:00+01:00}
          - {kind: rule, until: "2026-12-01T08:00"}
        """,
        encoding="utf-8",
    )
    first, *others = read(file, ENV).silences
    assert (first.kind, first.project, first.run, first.subject) == ("plateau", "toy-*", "*", "*")
    assert (first.ends, first.reason) == (None, "nobody minds")
    assert [silence.ends for silence in others] == [1_796_083_200.0, 1_796_108_400.0, 1_796_112_000.0]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{reason: x}", "silences, entry 1 says what is silent, by one or several of project, run, kind, subject"),
        ("{kind: 3}", "as text, in which . stands for anything"),
        ("{kind: x, for: 2h}", "has for; known are project"),
        ("{kind: x, until: soon}", "until is a day or a time, as in 2026-12-01"),
        ("3", "is no mapping"),
    ],
)
def test_a_silence_that_cannot_be_is_said(file: Path, entry: str, message: str):
    file.write_text(f"silences: [{entry}]", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message):
        read(file, ENV)
