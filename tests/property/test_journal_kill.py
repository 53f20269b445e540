"""A writer that dies at any of its stores leaves every record whose call returned, and at most one more."""

import contextlib
import mmap
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pulsetrain.journal import writer as writing
from pulsetrain.journal.reader import JournalReader
from tests.journal_files import Record, flat, read_all, varied


class Stores:
    """Calls `after` when the writer has stored something into a segment, or given one its name."""

    def __init__(self) -> None:
        self.after: Callable[[], None] = bool
        stores = self

        class Map(mmap.mmap):
            def __setitem__(self, place: Any, value: Any) -> None:
                super().__setitem__(place, value)
                stores.after()

        class Words:
            def __init__(self, inner: memoryview) -> None:
                self._inner = inner
                self.release = inner.release

            def cast(self, form: str) -> "Words":
                return Words(self._inner.cast(form))  # type: ignore[call-overload]

            def __setitem__(self, place: int, value: int) -> None:
                self._inner[place] = value
                stores.after()

        self.map, self.words = Map, lambda mapped: Words(memoryview(mapped))


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Stores:
    watched = Stores()
    monkeypatch.setattr(writing.mmap, "mmap", watched.map)
    monkeypatch.setattr(writing, "memoryview", watched.words, raising=False)
    rename = writing.os.rename

    def renamed(*names: Any) -> None:
        rename(*names)
        watched.after()

    monkeypatch.setattr(writing.os, "rename", renamed)
    return watched


@pytest.fixture
def returned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many calls that write a record have returned."""
    count = [0]
    for name in ("row", "text_row", "event"):
        method = getattr(writing.JournalWriter, name)

        def counting(self: Any, *args: Any, _method: Any = method, **kwargs: Any) -> None:
            _method(self, *args, **kwargs)
            count[0] += 1

        monkeypatch.setattr(writing.JournalWriter, name, counting)
    return count


def test_killed_after_any_store_nothing_that_returned_is_missing(
    tmp_path: Path, stores: Stores, returned: list[int]
) -> None:
    journal, copies = tmp_path / "journal", tmp_path / "copies"
    kept: list[tuple[int, list[Record], Any]] = []

    def die() -> None:
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir()
        for segment in journal.glob("*.journal"):
            shutil.copyfile(segment, copies / segment.name)
        got, reader = read_all(copies)
        kept.append((returned[0], got, reader.damage))

    stores.after = die
    varied(journal, rounds=12)
    true, _ = read_all(journal)
    assert len(kept) > 2 * len(true)
    for calls, got, damage in kept:
        assert got == true[: len(got)]
        assert calls <= len(got) <= calls + 1
        assert damage is None or damage.torn
    assert {len(got) for _, got, _ in kept} == set(range(len(true) + 1))
    assert any(damage for _, _, damage in kept), "a record that is begun and not finished is told"


@pytest.mark.parametrize("max_bytes", [1, 200, 1 << 20])
def test_a_reader_between_any_two_stores_sees_what_returned_and_goes_on_from_there(
    tmp_path: Path, stores: Stores, returned: list[int], max_bytes: int
) -> None:
    journal = tmp_path / "journal"
    seen: list[Record] = []
    with JournalReader(journal) as reader, contextlib.ExitStack() as stack:

        def look() -> None:
            before = len(seen)
            while items := reader.read(max_bytes):
                seen.extend(flat(items))
            assert reader.damage is None or reader.damage.torn
            assert returned[0] <= len(seen) <= returned[0] + 1
            with JournalReader(journal, reader.position) as resumed:
                assert resumed.read() == []
                assert resumed.sequence == reader.sequence or not seen
            assert before <= len(seen)

        stores.after = look
        stack.callback(varied(journal, rounds=8).close)
        look()
    assert seen == read_all(journal)[0]


@pytest.fixture(autouse=True)
def _quiet(stores: Stores) -> Iterator[None]:
    yield
    stores.after = bool
