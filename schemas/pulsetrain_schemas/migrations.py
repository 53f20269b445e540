"""The ClickHouse migrations: numbered .sql files, in order, with checksums, and which of them a database still lacks.

A file is called <number>_<what>.sql, numbers running from 0001 without a gap. One that was applied anywhere is never
changed in what it says: a new number says what is different. Nothing here talks to a server.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
# Strings and quoted names whole (backslash escapes; a doubled quote reads as two strings), comments, semicolons, text.
_TOKEN = re.compile(
    r"""(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`)"""
    r"""|(?P<comment>--[^\n]*|/\*.*?\*/)|(?P<end>;)|(?P<unclosed>['"`]|/\*)|[^'"`\-/;]+|.""",
    re.DOTALL,
)

# What a file's checksum was before it was written otherwise, with the same meaning: to a database that had it so, it is
# applied. In these two, columns had their comments behind their codecs, which ClickHouse takes from 26.8 on.
_FORMERLY = {
    1: "4efa857c8c12545396ac10f3c97002166b4036a9892273176861097be671a210",
    3: "129ce267905812ff8a4da5e74795b1b720c94c8dc91bb038423c43087c744d63",
}


class MigrationError(Exception):
    """The migrations, or what a database says was applied of them, do not fit together."""


class InvalidMigration(MigrationError):
    """A file is not named or not written as a migration must be."""


class MissingMigration(MigrationError):
    """A number is missing: among the files, or among those that a database has applied."""


class ChangedMigration(MigrationError):
    """A file is not what was applied under its number."""


class NewerDatabase(MigrationError):
    """The database has had migrations that this version does not know."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `checksum` is the SHA-256 of its text with Unix line ends, in hex."""

    number: int
    name: str
    checksum: str
    statements: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.number:04}_{self.name}"


def load(folder: Traversable | None = None) -> tuple[Migration, ...]:
    """The migrations of the folder (this package's own by default), by number. Raises MigrationError."""
    folder = folder if folder is not None else files(__package__) / "clickhouse"
    by_number: dict[int, Migration] = {}
    for file in folder.iterdir():
        if not file.name.endswith(".sql"):
            continue
        match = _FILE_NAME.fullmatch(file.name)
        if match is None:
            raise InvalidMigration(f"{file.name}: a migration is called <four digits>_<lower_case_name>.sql")
        number, text = int(match[1]), file.read_text(encoding="utf-8").replace("\r\n", "\n")
        if number in by_number:
            raise InvalidMigration(f"{file.name}: {by_number[number]} has the same number")
        checksum = hashlib.sha256(text.encode()).hexdigest()
        try:
            by_number[number] = Migration(number, match[2], checksum, split(text))
        except InvalidMigration as error:
            raise InvalidMigration(f"{file.name}: {error}") from None
    for expected, number in enumerate(sorted(by_number), start=1):
        if number != expected:
            raise MissingMigration(f"there is a migration {by_number[number]} and none with the number {expected:04}")
    return tuple(by_number[number] for number in sorted(by_number))


def pending(applied: Mapping[int, str], migrations: tuple[Migration, ...] | None = None) -> tuple[Migration, ...]:
    """The migrations still to be applied, in order, to a database that had those of `applied`: checksums by number.

    Raises ChangedMigration, MissingMigration or NewerDatabase where the database's past is not what the files tell.
    """
    migrations = migrations if migrations is not None else load()
    latest = max(applied, default=0)
    if latest > len(migrations):
        raise NewerDatabase(
            f"the database has had migration {latest:04}, this version of pulsetrain knows {len(migrations):04} as the "
            "last; use the version that migrated it, or a newer one"
        )
    for migration in migrations[:latest]:
        checksum = applied.get(migration.number)
        if checksum is None:
            raise MissingMigration(f"the database has had migration {latest:04} and not {migration}")
        if checksum not in (migration.checksum, _FORMERLY.get(migration.number)):
            raise ChangedMigration(
                f"{migration} is not what was applied to the database ({checksum[:12]} then, "
                f"{migration.checksum[:12]} now); an applied migration is never changed: restore the file "
                "and put the change into a new one"
            )
    return migrations[latest:]


def split(text: str) -> tuple[str, ...]:
    """The statements of a file, each ended by a semicolon, without comments. Quoted text is left as it is."""
    statements: list[str] = []
    parts: list[str] = []
    for token in _TOKEN.finditer(text):
        if token["unclosed"]:
            line = text.count("\n", 0, token.start()) + 1
            raise InvalidMigration(f"the {token[0]} in line {line} is not closed")
        if token["comment"]:
            parts.append(" ")
        elif token["end"]:
            statements.append("".join(parts).strip())
            parts.clear()
        else:
            parts.append(token[0])
    if "".join(parts).strip():
        raise InvalidMigration("the last statement does not end with a semicolon")
    return tuple(statement for statement in statements if statement)
