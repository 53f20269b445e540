"""A journal that was cut, altered or mixed up gives a true prefix of its records, says what it left, never raises."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsetrain.journal.format import CLOSE_EXTENT, HEADER_BYTES, Position, segment_path
from pulsetrain.journal.reader import GAP, JournalReader
from pulsetrain.journal.writer import JournalWriter
from tests.examples import examples
from tests.journal_files import Record, check_account, contents, lay_out, read_all, varied

STRANGER = "f" * 32


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """The segments of a journal with everything in it."""
    directory = tmp_path_factory.mktemp("whole")
    varied(directory).close()
    assert len(contents(directory)) >= 3
    return contents(directory)


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """The segments of another writer's journal, otherwise like it."""
    directory = tmp_path_factory.mktemp("strange")
    varied(directory, STRANGER).close()
    return contents(directory)


@pytest.fixture(scope="module")
def true(whole: dict[int, bytes], tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """What is in both."""
    directory = tmp_path_factory.mktemp("true")
    lay_out(directory, whole)
    records, reader = read_all(directory)
    assert reader.damage is None
    assert [record[0] for record in records] == list(range(1, len(records) + 1))
    return records


def used(segments: dict[int, bytes], number: int) -> int:
    """Where the records of a segment end."""
    return len(segments[number].rstrip(b"\0")) + 7 & ~7


def test_cut_at_every_byte_the_reader_gives_a_prefix_and_says_what_it_left(tmp_path, whole):
    last = max(whole)
    lay_out(tmp_path, whole)
    start = Position(last, 0)
    here, _ = read_all(tmp_path, position=start)
    path, data = segment_path(tmp_path, last), whole[last]
    lengths = set()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        got, reader = read_all(tmp_path, position=start)
        assert got == here[: len(got)]
        lengths.add(len(got))
        damage = reader.damage
        if cut < HEADER_BYTES:
            assert got == []
            assert read_all(tmp_path)[1].damage is not None
            continue
        left = len(data[reader.position.offset : cut].rstrip(b"\0"))
        assert (damage.bytes_left if damage else 0) == left
        assert damage is None or damage.torn
        # As a loss of power leaves a segment: its space, and not its bytes.
        path.write_bytes(data[:cut] + bytes(4096 - cut))
        padded, reader = read_all(tmp_path, position=start)
        assert padded == here[: len(padded)]
        assert len(padded) >= len(got)
        assert reader.damage is None or reader.damage.torn
    assert lengths == set(range(len(here)))


def test_with_any_byte_altered_the_reader_gives_a_prefix_and_says_what_it_left(tmp_path, whole, true):
    lay_out(tmp_path, whole)
    for number, data in whole.items():
        descriptor = os.open(segment_path(tmp_path, number), os.O_RDWR)
        here = true[-len(read_all(tmp_path, position=Position(number, 0))[0]) :]
        end = used(whole, number)
        for place in [*range(end), *range(end, len(data), 61)]:
            expected, start = (true, Position(1, 0)) if place < HEADER_BYTES else (here, Position(number, 0))
            for flip in (1 << (place * 5 + number) % 8, 0xFF)[: 1 + (place % 3 == 0)]:
                os.pwrite(descriptor, bytes([data[place] ^ flip]), place)
                got, reader = read_all(tmp_path, position=start)
                assert got == expected[: len(got)]
                if len(got) < len(expected):
                    damage = reader.damage
                    assert damage is not None
                    assert damage.bytes_left > 0
                    assert (damage.segment, damage.offset) == reader.position
                    assert not damage.torn or damage.segment == max(whole)
            os.pwrite(descriptor, data[place : place + 1], place)
        os.close(descriptor)
    assert read_all(tmp_path)[0] == true


def test_a_byte_altered_in_what_was_never_written_costs_no_record(tmp_path, whole, true):
    last = max(whole)
    for place in range(64):
        end = used(whole, last)
        lay_out(tmp_path, whole | {last: whole[last][:end] + bytes(place) + b"\x10" + bytes(100)})
        got, reader = read_all(tmp_path)
        assert got == true
        assert reader.damage.torn
        assert reader.damage.offset == end


def test_a_gap_before_records_is_damage_and_the_end_of_the_records_is_not(tmp_path, whole, true):
    """A page that a loss of power kept from the disk while a later one was written."""
    last = max(whole)
    end = used(whole, last)
    for start in range(HEADER_BYTES, end - 200, 8):
        data = bytearray(whole[last])
        data[start : start + 64] = bytes(64)
        lay_out(tmp_path, whole | {last: bytes(data) + bytes(5000)})
        got, reader = read_all(tmp_path)
        assert got == true[: len(got)]
        assert len(got) < len(true)
        assert reader.damage is not None
        assert not reader.damage.torn
        if reader.position.offset == start:
            assert reader.damage.reason == GAP


def test_a_segment_that_was_promised_and_is_missing_is_damage(tmp_path, whole, true):
    last = max(whole)
    for instead in (None, b"", bytes(4096)):
        lay_out(tmp_path, {number: data for number, data in whole.items() if number != last})
        if instead is not None:
            segment_path(tmp_path, last).write_bytes(instead)
        got, reader = read_all(tmp_path)
        assert got == true[: len(got)]
        assert reader.damage is not None
        assert not reader.damage.torn
        assert f"segment {last}" in reader.damage.reason


def test_a_journal_without_its_first_segment_is_damage(tmp_path, whole):
    lay_out(tmp_path, {number: data for number, data in whole.items() if number != 1})
    got, reader = read_all(tmp_path)
    assert got == []
    assert "segment 1 is missing" in reader.damage.reason


Segments = dict[int, bytes]
Damaging = Callable[[Segments, Segments, int, int, int], Segments]


def patched(data: bytes, place: int, new: bytes) -> bytes:
    place %= max(len(data), 1)
    return (data[:place] + new + data[place + len(new) :])[: len(data)]


DAMAGING: dict[str, Damaging] = {
    "a byte flipped": lambda s, o, n, a, b: s | {n: patched(s[n], a, bytes([s[n][a % len(s[n])] ^ (b % 255 + 1)]))},
    "bytes zeroed": lambda s, o, n, a, b: s | {n: patched(s[n], a, bytes(b % 600))},
    "bytes overwritten": lambda s, o, n, a, b: s | {n: patched(s[n], a, bytes([b % 256]) * (b % 40))},
    "bytes of elsewhere": lambda s, o, n, a, b: s | {n: patched(s[n], a & ~7, s[n][b % 4096 & ~7 :][:256])},
    "cut": lambda s, o, n, a, b: s | {n: s[n][: a % len(s[n])]},
    "emptied": lambda s, o, n, a, b: s | {n: b""},
    "garbage after it": lambda s, o, n, a, b: s | {n: s[n] + bytes((a * i + b) % 256 for i in range(b % 300))},
    "zeros after it": lambda s, o, n, a, b: s | {n: s[n] + bytes(b % 9000)},
    "a record again after it": lambda s, o, n, a, b: s | {n: s[n].rstrip(b"\0") + s[n][HEADER_BYTES:]},
    "missing": lambda s, o, n, a, b: {number: data for number, data in s.items() if number != n},
    "swapped": lambda s, o, n, a, b: s | {n: s.get(a % 3 + 1, b""), a % 3 + 1: s[n]},
    "doubled": lambda s, o, n, a, b: s | {a % 5 + 1: s[n]},
    "of another writer": lambda s, o, n, a, b: s | {n: o[n]} if n in o else s,
    "not closed": lambda s, o, n, a, b: (
        s | {n: patched(s[n], len(s[n].rstrip(b"\0")) // 8 * 8 - 8, bytes(CLOSE_EXTENT))}
    ),
}
damages = st.lists(
    st.tuples(st.sampled_from(sorted(DAMAGING)), st.integers(0, 9), st.integers(0, 10_000), st.integers(0, 10_000)),
    min_size=1,
    max_size=4,
)


@examples(400)
@given(damages=damages, boundary=st.integers(0, 10_000), max_bytes=st.sampled_from([1, 300, 1 << 20]))
def test_several_damages_at_once_never_give_a_wrong_record(
    tmp_path: Path,
    whole: Segments,
    strange: Segments,
    true: list[Record],
    places: list[tuple[Position, int]],
    damages: list[tuple[str, int, int, int]],
    boundary: int,
    max_bytes: int,
) -> None:
    segments = dict(whole)
    for name, which, first, second in damages:
        numbers = sorted(number for number, data in segments.items() if data)
        if numbers:
            segments = DAMAGING[name](segments, strange, numbers[which % len(numbers)], first, second)
    lay_out(tmp_path, segments)
    got, reader = read_all(tmp_path, max_bytes)
    assert got == true[: len(got)]
    check_account(reader.damage, reader, segments)
    if len(got) < len(true) and reader.damage is None:
        # Whatever was lost left no trace: the files say nothing of it.
        assert not any(segments.get(reader.position.segment, b"")[reader.position.offset :])
    position, sequence = places[boundary % len(places)]
    rest, resumed = read_all(tmp_path, max_bytes, position)
    assert rest == true[sequence : sequence + len(rest)]
    check_account(resumed.damage, resumed, segments)


@pytest.fixture(scope="module")
def places(whole: Segments, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Position, int]]:
    """Every position between two records, with the sequence before it."""
    directory = tmp_path_factory.mktemp("places")
    lay_out(directory, whole)
    found = [(Position(1, 0), 0)]
    with JournalReader(directory) as reader:
        while reader.read(1):
            found.append((reader.position, reader.sequence))
    assert len(found) > 60
    return found


def test_reading_goes_on_at_every_boundary_and_nowhere_else(tmp_path, whole, true, places):
    lay_out(tmp_path, whole)
    for position, sequence in places:
        rest, reader = read_all(tmp_path, position=position)
        assert rest == true[sequence:]
        assert (reader.damage, reader.sequence) == (None, len(true))
    known = {position for position, _ in places}
    starts = {(segment, HEADER_BYTES) for segment in whole} | {(segment, 0) for segment in whole}
    silent = 0
    for number, data in whole.items():
        for offset in range(HEADER_BYTES, len(data) + 24, 4):
            if (number, offset) in known | starts:
                continue
            rest, reader = read_all(tmp_path, position=Position(number, offset))
            if rest:  # between a shape and its first row, or a record and the end of its segment: a boundary too
                assert rest == true[-len(rest) :]
                silent += 1
            elif offset < used(whole, number):
                assert reader.damage is None or "is not between two records" in reader.damage.reason
    assert silent < 60


numbers = st.one_of(st.floats(allow_nan=True), st.integers(-(2**60), 2**60), st.booleans())
rows = st.dictionaries(st.text(max_size=5), numbers, max_size=6)
steps = st.integers(-(2**63), 2**63 - 1)
texts = st.dictionaries(st.text(max_size=5), st.text(max_size=5), min_size=1, max_size=3)
records = st.one_of(st.tuples(rows, steps, st.none()), st.tuples(rows, steps, texts))


@examples(80)
@given(
    written=st.lists(records, max_size=60),
    segment_bytes=st.sampled_from([4096, 8192, 1 << 20]),
    max_bytes=st.sampled_from([1, 100, 5000, 1 << 20]),
    repeat=st.integers(1, 5),
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=3),
)
def test_whatever_is_written_is_read_back_and_damaged_a_prefix_of_it(
    tmp_path_factory, written, segment_bytes, max_bytes, repeat, flips
):
    directory = tmp_path_factory.mktemp("journal")
    journal = JournalWriter(directory, segment_bytes=segment_bytes)
    expected: list[Record] = []
    for row, step, extra in written:
        for _ in range(repeat):
            sequence = len(expected) + 1
            if extra is None:
                journal.row(tuple(row), row.values(), step, 1.25)
                values = tuple(repr(float(value)) for value in row.values())
                expected.append((sequence, step, "1.25", tuple(row), values))
            else:
                as_floats = {key: float(value) for key, value in row.items()}
                journal.text_row(as_floats, extra, step, 1.25)
                expected.append((sequence, step, "1.25", repr(as_floats), repr(extra)))
    got, reader = read_all(directory, max_bytes)
    assert got == expected
    assert reader.damage is None
    assert reader.position == journal.position
    journal.close()
    assert read_all(directory, max_bytes)[0] == expected
    segments = contents(directory)
    for place, mask in flips:
        number = 1 + place % len(segments)
        at = place // 3 % len(segments[number])
        segments[number] = patched(segments[number], at, bytes([segments[number][at] ^ mask]))
    lay_out(directory, segments)
    got, reader = read_all(directory, max_bytes)
    assert got == expected[: len(got)]
    assert len(got) == len(expected) or reader.damage is not None
    check_account(reader.damage, reader, segments)
