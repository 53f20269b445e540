"""The settings that travel with each query, and how they are laid over those of the session for its time alone.

A native client sends settings beside the text of a query. They are set in the engine's session before the query, and
the values that stood there before are set again when a query comes without them. Most clients send the same ones each
time; then nothing is done.
"""

import json
from collections.abc import Iterable, Mapping

from pulsetrain_local.clickhouse.engine import EngineConnection, EngineError, settings_statement
from pulsetrain_local.clickhouse.protocol import Setting
from pulsetrain_schemas.sql import literal

UNKNOWN_SETTING = 115


class SettingTypes:
    """The settings that the engine knows, with their types."""

    def __init__(self, connection: EngineConnection) -> None:
        listing = connection.query("SELECT name, type FROM system.settings", "TabSeparated").decode()
        self._types: Mapping[str, str] = dict(line.split("\t", 1) for line in listing.splitlines())

    def of(self, name: str) -> str | None:
        """The type of a setting; None for one that there is not."""
        return self._types.get(name)


class SettingsOverlay:
    """Lays the settings of each query over the session's."""

    def __init__(self, connection: EngineConnection, types: SettingTypes) -> None:
        self._connection = connection
        self._types = types
        self._laid: dict[str, str | None] = {}
        self._beneath: dict[str, str | None] = {}

    def lay(self, settings: Iterable[Setting]) -> tuple[str, ...]:
        """Makes these settings hold, and no others of an earlier query. Returns the names passed over as unknown.

        Raises EngineError for an unknown one that is important, and for a value that the engine refuses.
        """
        wanted, unknown = dict[str, str](), list[str]()
        for setting in settings:
            if self._types.of(setting.name) is not None:
                wanted[setting.name] = setting.value
            elif setting.important:
                raise EngineError(UNKNOWN_SETTING, f"Unknown setting '{setting.name}'. (UNKNOWN_SETTING)")
            else:
                unknown.append(setting.name)
        if wanted != self._laid:
            self._change(wanted)
        return tuple(unknown)

    def lift(self) -> None:
        """Takes the settings of the last query away, so that a SET acts on the session itself."""
        self.lay(())

    def _change(self, wanted: dict[str, str]) -> None:
        gone = {name: self._beneath[name] for name in self._laid if name not in wanted}
        if gone:
            self._connection.query(settings_statement(gone))
            for name in gone:
                del self._laid[name], self._beneath[name]
        new = [name for name in wanted if name not in self._laid]
        if new:
            self._beneath.update(self._session_values(new))
        changed = {name: value for name, value in wanted.items() if self._laid.get(name) != value}
        if changed:
            # Where the engine refuses one value, those before it may hold already: all count as laid, none as known.
            self._laid.update(dict.fromkeys(changed))
            self._connection.query(settings_statement(changed))
            self._laid.update(changed)

    def _session_values(self, names: Iterable[str]) -> dict[str, str | None]:
        """What the session says of these settings: a value, or None where it has the default."""
        listed = ", ".join(map(literal, names))
        answer = self._connection.query(
            f"SELECT name, changed, value FROM system.settings WHERE name IN ({listed})",  # noqa: S608
            "JSONCompactEachRow",
        )
        values = dict[str, str | None]()
        for line in answer.splitlines():
            name, changed, value = json.loads(line)
            values[name] = value if changed else None
        return values
