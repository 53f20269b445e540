"""Whatever a dead letter holds, looking into it neither fails nor reaches the terminal."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsetrain_consumers.dead_letters.catalogue import LetterId, UnknownLetter
from pulsetrain_consumers.dead_letters.preview import preview
from pulsetrain_consumers.dead_letters.terminal import safe
from pulsetrain_schemas import catalog, events
from pulsetrain_schemas.framing import SINGLE_OBJECT
from tests.writer_rig import metric_batch

WHOLE = events.encode(metric_batch("w", 1, 20, texts=True))
FRAMES = [b"", *(b"\xc3\x01" + catalog.current(name).fingerprint for name in catalog.names())]


@given(frame=st.sampled_from(FRAMES), body=st.binary(max_size=300))
def test_any_bytes_have_a_preview_without_control_characters(frame: bytes, body: bytes) -> None:
    payload = frame + body
    found = preview(payload, SINGLE_OBJECT)
    assert found.size == len(payload)
    assert (found.schema is not None) == (payload[:10] in FRAMES[1:])
    text = found.text or ""
    assert all(character.isprintable() or character in "\n\t" for character in text)
    json.dumps(asdict(found))


@given(end=st.integers(10, len(WHOLE) - 1))
def test_a_message_that_breaks_off_shows_the_fields_before_that(end: int) -> None:
    whole, broken = preview(WHOLE, SINGLE_OBJECT), preview(WHOLE[:end], SINGLE_OBJECT)
    assert whole.problem is None
    assert whole.fields is not None
    assert broken.fields is not None
    assert broken.problem is not None
    shown = [name for name, value in whole.fields.items() if broken.fields.get(name) == value]
    assert list(broken.fields)[: len(shown)] == shown
    assert len(broken.fields) < len(whole.fields)


def test_bytes_after_the_end_are_told() -> None:
    assert "1 bytes follow" in (preview(WHOLE + b"\x00", SINGLE_OBJECT).problem or "")


@given(
    topic=st.sampled_from(["metrics", "pulsetrain.logs", "other/topic"]), place=st.tuples(*[st.integers(0, 2**40)] * 2)
)
def test_a_letter_is_found_by_the_name_that_is_shown_for_it(topic: str, place: tuple[int, int]) -> None:
    text = f"{topic}/{place[0]}/{place[1]}"
    if "/" in topic:
        with pytest.raises(UnknownLetter):
            LetterId.parse(text)
    else:
        assert LetterId.parse(str(LetterId.parse(text))) == LetterId.parse(text)


@given(st.text())
def test_what_is_shown_is_one_line_that_no_terminal_obeys(text: str) -> None:
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in safe(text))
