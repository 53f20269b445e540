"""Reading the migrations, splitting them into statements, and telling which of them a database lacks."""

import re
from pathlib import Path

import pytest

from pulsetrain_schemas import migrations
from pulsetrain_schemas.migrations import (
    ChangedMigration,
    InvalidMigration,
    MissingMigration,
    NewerDatabase,
    load,
    pending,
    split,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE a (x Int8);\n")
    (tmp_path / "0002_second.sql").write_text("-- two\nSELECT 1;\nSELECT 2;\n")
    (tmp_path / "README.md").write_text("not a migration")
    return tmp_path


def test_the_packages_own_migrations_are_read_in_order():
    own = load()
    assert [migration.number for migration in own] == list(range(1, len(own) + 1))
    assert [str(migration) for migration in own][:2] == ["0001_core", "0002_views"]
    changes = ("CREATE ", "ALTER TABLE ")
    assert all(statement.startswith(changes) for migration in own for statement in migration.statements)


def test_a_columns_comment_stands_before_its_codec():
    """ClickHouse takes the other order from 26.8 on, and refuses it before."""
    wrong = re.compile(r"CODEC\((?:[^()]|\([^)]*\))*\)\s+COMMENT")
    assert [str(migration) for migration in load() if wrong.search("\n".join(migration.statements))] == []


def test_a_database_that_was_migrated_before_a_file_was_written_otherwise_lacks_nothing_of_it():
    formerly = {1: "4efa857c8c12545396ac10f3c97002166b4036a9892273176861097be671a210"}
    assert [migration.number for migration in pending(formerly)] == [migration.number for migration in load()][1:]


def test_a_semicolon_or_a_comment_within_quotes_is_text():
    assert split("SELECT 'a;--b', \"c;d\", `e/*f`, 'it''s', 'it\\'s;'; -- done;\nSELECT /* ; */ 2 - 1 / 1;") == (
        "SELECT 'a;--b', \"c;d\", `e/*f`, 'it''s', 'it\\'s;'",
        "SELECT   2 - 1 / 1",
    )


@pytest.mark.parametrize("text", ["SELECT 1", "SELECT 'a;", "SELECT /* ;", "SELECT `a;"])
def test_a_statement_or_a_quote_without_an_end_is_refused(text: str):
    with pytest.raises(InvalidMigration):
        split(text)


def test_a_file_of_comments_has_no_statements():
    assert split("-- nothing\n/* here */ ; ;\n") == ()


def test_the_checksum_does_not_depend_on_line_ends(folder: Path):
    before = load(folder)
    (folder / "0002_second.sql").write_bytes(b"-- two\r\nSELECT 1;\r\nSELECT 2;\r\n")
    assert load(folder) == before


def test_a_gap_between_the_numbers_is_refused(folder: Path):
    (folder / "0004_fourth.sql").write_text("SELECT 1;")
    with pytest.raises(MissingMigration, match="0003"):
        load(folder)


@pytest.mark.parametrize("name", ["3_third.sql", "0003-third.sql", "third.sql", "0002_again.sql"])
def test_a_wrong_name_or_a_number_used_twice_is_refused(folder: Path, name: str):
    (folder / name).write_text("SELECT 1;")
    with pytest.raises(InvalidMigration):
        load(folder)


def test_an_error_in_a_statement_names_the_file(folder: Path):
    (folder / "0003_third.sql").write_text("SELECT 'a")
    with pytest.raises(InvalidMigration, match=r"0003_third\.sql: the ' in line 1"):
        load(folder)


def test_what_was_not_applied_is_pending(folder: Path):
    first, second = load(folder)
    assert pending({}, (first, second)) == (first, second)
    assert pending({1: first.checksum}, (first, second)) == (second,)
    assert pending({1: first.checksum, 2: second.checksum}, (first, second)) == ()
    assert pending({}) == load()


def test_a_database_with_another_past_is_refused(folder: Path):
    first, second = load(folder)
    with pytest.raises(ChangedMigration, match="0001_first"):
        pending({1: "0" * 64}, (first, second))
    with pytest.raises(MissingMigration, match="0001_first"):
        pending({2: second.checksum}, (first, second))
    with pytest.raises(NewerDatabase, match="0003"):
        pending({1: first.checksum, 2: second.checksum, 3: "x"}, (first, second))


def test_all_its_errors_are_of_one_kind():
    assert {ChangedMigration, InvalidMigration, MissingMigration, NewerDatabase} == set(
        migrations.MigrationError.__subclasses__()
    )
