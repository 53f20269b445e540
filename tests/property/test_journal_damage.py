"""A journal that was cut or altered gives a true prefix of its records, and never raises."""

import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pulsetrain.journal.format import HEADER_BYTES
from pulsetrain.journal.reader import Event, JournalReader, RowBlock, TextRow
from pulsetrain.journal.writer import JournalWriter


def flat(items):
    """Records one by one, comparable (NaN as text)."""
    records = []
    for item in items:
        if isinstance(item, RowBlock):
            for i, sequence in enumerate(item.sequences.tolist()):
                values = tuple(repr(value) for value in item.values[i].tolist())
                records.append((sequence, int(item.steps[i]), repr(float(item.times[i])), item.keys, values))
        elif isinstance(item, TextRow):
            records.append((item.sequence, item.step, item.time, repr(item.numbers), repr(item.texts)))
        elif isinstance(item, Event):
            records.append((item.sequence, item.time, item.kind, repr(item.data)))
    return records


def read_all(directory, max_bytes=1 << 20):
    with JournalReader(directory) as reader:
        items = []
        while more := reader.read(max_bytes):
            items += more
        return flat(items), reader


def small_journal(directory):
    journal = JournalWriter(directory, segment_bytes=4096)
    journal.event("start", {"project": "digits"}, 1.0)
    for step in range(12):
        journal.row(("loss", "acc"), (0.5 * step, math.nan), step, 2.0)
        if step % 4 == 0:
            journal.row(("val",), (-1.0,), step, 2.0)
        if step == 6:
            journal.text_row({"x": 1.0}, {"t": '"é"'}, step, 3.0)
    return journal


def test_cut_at_every_byte_the_reader_gives_a_prefix_and_says_what_it_left(tmp_path):
    journal = small_journal(tmp_path)
    end = journal.position.offset
    journal.close()
    path = tmp_path / "00000001.journal"
    whole = path.read_bytes()
    assert len(whole) == end
    true, _ = read_all(tmp_path)
    lengths = set()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        got, reader = read_all(tmp_path)
        assert got == true[: len(got)]
        lengths.add(len(got))
        if cut < HEADER_BYTES:
            assert got == []
            continue
        left = len(whole[reader.position.offset : cut].rstrip(b"\0"))
        assert (reader.damage.bytes_left if reader.damage else 0) == left
        assert reader.damage is None or reader.damage.torn
        path.write_bytes(
            whole[:cut] + bytes(4096 - cut)
        )  # as a loss of power leaves a segment: its space, not its bytes
        padded, reader = read_all(tmp_path)
        assert padded == true[: len(padded)]
        assert len(padded) >= len(got)
    assert lengths == set(range(len(true)))


def test_any_byte_altered_the_reader_gives_a_prefix_and_never_raises(tmp_path):
    assert small_journal(tmp_path).position.offset < HEADER_BYTES + 1200
    path = tmp_path / "00000001.journal"
    whole = path.read_bytes()
    true, _ = read_all(tmp_path)
    for place in [*range(HEADER_BYTES + 1200), *range(HEADER_BYTES + 1200, len(whole), 37)]:
        for flip in (0x01, 0x80, 0xFF, whole[place]):
            if not flip:
                continue
            altered = bytearray(whole)
            altered[place] ^= flip
            path.write_bytes(altered)
            got, reader = read_all(tmp_path)
            assert got == true[: len(got)]
            if len(got) < len(true):
                assert reader.damage is not None
                assert reader.damage.bytes_left > 0


def test_a_lost_or_strange_segment_in_the_middle_is_damage(tmp_path):
    journal = JournalWriter(tmp_path, segment_bytes=4096)
    for step in range(200):
        journal.row(("loss",), (step,), step, 0.0)
    true, _ = read_all(tmp_path)
    second = tmp_path / "00000002.journal"
    kept = second.read_bytes()
    first = (tmp_path / "00000001.journal").read_bytes()
    for content in (None, b"", first, kept[:20], bytes(len(kept)), kept[:-2048] + bytes(2048)):
        second.unlink(missing_ok=True)
        if content is not None:
            second.write_bytes(content)
        got, reader = read_all(tmp_path)
        assert got == true[: len(got)]
        assert len(got) < len(true)
        assert reader.damage is not None
        assert not reader.damage.torn


numbers = st.one_of(st.floats(allow_nan=True), st.integers(-(2**60), 2**60), st.booleans())
rows = st.dictionaries(st.text(max_size=5), numbers, max_size=6)
steps = st.integers(-(2**63), 2**63 - 1)
texts = st.dictionaries(st.text(max_size=5), st.text(max_size=5), min_size=1, max_size=3)
records = st.one_of(st.tuples(rows, steps, st.none()), st.tuples(rows, steps, texts))


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    written=st.lists(records, max_size=60),
    segment_bytes=st.sampled_from([4096, 8192, 1 << 20]),
    max_bytes=st.sampled_from([1, 100, 5000, 1 << 20]),
    repeat=st.integers(1, 5),
)
def test_whatever_is_written_is_read_back(tmp_path_factory, written, segment_bytes, max_bytes, repeat):
    directory = tmp_path_factory.mktemp("journal")
    journal = JournalWriter(directory, segment_bytes=segment_bytes)
    expected = []
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
                expected.append((sequence, step, 1.25, repr(as_floats), repr(extra)))
    got, reader = read_all(directory, max_bytes)
    assert got == expected
    assert reader.damage is None
    assert reader.position == journal.position
    journal.close()
    assert read_all(directory, max_bytes)[0] == expected
