"""The settings of a query hold for that query, whatever came before, and whatever the engine refuses."""

import json
import re

import pytest

from pulsetrain_local.clickhouse.engine import EngineError
from pulsetrain_local.clickhouse.protocol import Setting
from pulsetrain_local.clickhouse.settings import SettingsOverlay, SettingTypes


class FakeEngine:
    """A session of three settings; it takes assignments one by one, as the engine does, and refuses the value `bad`."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.statements = 0

    def query(self, sql: str, output_format: str = "Native") -> bytes:
        if sql.startswith("SELECT name, type"):
            return b"".join(name + b"\tString\n" for name in (b"one", b"two", b"three"))
        if sql.startswith("SELECT name, changed"):
            asked = re.findall(r"'(\w+)'", sql)
            return b"\n".join(
                json.dumps([name, int(name in self.values), self.values.get(name, "default")]).encode()
                for name in asked
            )
        self.statements += 1
        for name, value in re.findall(r"(\w+) = (DEFAULT|'[^']*')", sql):
            if value == "'bad'":
                raise EngineError(27, "bad value")
            if value == "DEFAULT":
                self.values.pop(name, None)
            else:
                self.values[name] = value.strip("'")
        return b""


def settings(**values: str) -> list[Setting]:
    return [Setting(name, value, important=False) for name, value in values.items()]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def overlay(engine: FakeEngine) -> SettingsOverlay:
    return SettingsOverlay(engine, SettingTypes(engine))  # type: ignore[arg-type]


def test_settings_are_laid_changed_and_taken_away_again(engine: FakeEngine, overlay: SettingsOverlay) -> None:
    engine.values["two"] = "of the session"
    overlay.lay(settings(one="1", two="2"))
    assert engine.values == {"one": "1", "two": "2"}
    overlay.lay(settings(two="3", three="4"))
    assert engine.values == {"two": "3", "three": "4"}
    overlay.lift()
    assert engine.values == {"two": "of the session"}


def test_the_same_settings_again_cost_nothing(engine: FakeEngine, overlay: SettingsOverlay) -> None:
    overlay.lay(settings(one="1"))
    before = engine.statements
    overlay.lay(settings(one="1"))
    assert engine.statements == before


def test_a_value_that_is_refused_leaves_nothing_behind(engine: FakeEngine, overlay: SettingsOverlay) -> None:
    engine.values["one"] = "of the session"
    with pytest.raises(EngineError):
        overlay.lay(settings(one="1", two="bad"))
    overlay.lay(())
    assert engine.values == {"one": "of the session"}
    overlay.lay(settings(one="1"))
    assert engine.values == {"one": "1"}


def test_an_unknown_setting_is_named_or_where_it_is_important_refused(overlay: SettingsOverlay) -> None:
    assert overlay.lay(settings(one="1", four="4")) == ("four",)
    with pytest.raises(EngineError, match="Unknown setting 'four'"):
        overlay.lay([Setting("four", "4", important=True)])
