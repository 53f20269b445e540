"""What monitor.yaml may say, and what a person reads who wrote something else."""

from pathlib import Path

import pytest

from pulsetrain_consumers.monitor import configuration
from pulsetrain_consumers.monitor.configuration import ConfigurationError, read
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
    return read(file, ENV)


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
