"""What ClickHouse knows of the messages that were put aside: counted, listed, and gone through without holding all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pulsetrain_consumers.dead_letters.letters import Place
from pulsetrain_consumers.reading.database import Database
from pulsetrain_schemas.errors import UserError
from pulsetrain_schemas.topics import PREFIX, TOPICS

STATES = ("waiting", "replayed", "dropped")
REASONS = ("undecodable", "unknown_schema", "invalid", "refused")
_PAGE = 10_000
_MOST_KINDS = 50


class UnknownLetter(UserError):
    """No message was put aside under this name, or it is no name."""


@dataclass(frozen=True, slots=True)
class LetterId:
    """Names a letter by where its message was. Written `metrics/3/1042`: topic, partition, offset."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> "LetterId":
        """Reads what `str` writes; the topic may also have its whole name. Raises UnknownLetter."""
        topic, _, rest = text.partition("/")
        partition, _, offset = rest.partition("/")
        if not topic or not partition.isdecimal() or not offset.isdecimal():
            raise UnknownLetter(f"{text!r} names no letter: a name is topic/partition/offset, as in metrics/3/1042")
        return cls(TOPICS[topic].kafka_name if topic in TOPICS else topic, int(partition), int(offset))

    def __str__(self) -> str:
        return f"{self.topic.removeprefix(PREFIX)}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant. None leaves a question open; `ids`, where there are any, name them one by one."""

    ids: tuple[LetterId, ...] = ()
    state: str | None = "waiting"
    reason: str | None = None
    topic: str | None = None
    since: datetime | None = None

    @property
    def is_narrowed(self) -> bool:
        """Whether it means less than everything in a state."""
        return bool(self.ids or self.reason or self.topic or self.since)

    def where(self) -> tuple[str, dict[str, Any]]:
        """The condition on the view `dead_letters`, and its parameters."""
        conditions, values = ["1"], dict[str, Any]()
        if self.ids:
            names = [(one.topic, one.partition, one.offset) for one in self.ids]
            listed = ", ".join(
                f"({{topic{i}:String}}, {{partition{i}:UInt32}}, {{offset{i}:UInt64}})" for i in range(len(names))
            )
            conditions.append(f"(topic, kafka_partition, kafka_offset) IN ({listed})")
            for i, (topic, partition, offset) in enumerate(names):
                values |= {f"topic{i}": topic, f"partition{i}": partition, f"offset{i}": offset}
        for name, value in (("state", self.state), ("reason", self.reason), ("topic", self.topic)):
            if value is not None:
                conditions.append(f"{name} = {{{name}:String}}")
                values[name] = value
        if self.since is not None:
            conditions.append("put_aside >= {since:DateTime64(6, 'UTC')}")
            values["since"] = self.since.astimezone(UTC)
        return " AND ".join(conditions), values


@dataclass(frozen=True, slots=True)
class Kind:
    """Letters that share reason, topic and state."""

    reason: str
    topic: str
    state: str
    letters: int
    oldest: datetime
    newest: datetime
    error: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One letter, as the view has it. `payload_bytes` of None: the payload is at its original offset alone."""

    id: LetterId
    topic_id: str
    state: str
    reason: str
    error: str
    put_aside: datetime
    record_time: datetime | None
    resolved: datetime | None
    resolved_by: str
    consumer_group: str
    key: bytes | None
    payload_bytes: int | None
    payload_start: bytes
    place: Place


_COLUMNS = """
    topic, kafka_partition, kafka_offset, topic_id, state, reason, error, put_aside, record_ts, resolved, resolved_by,
    consumer_group, if(key IS NULL, NULL, hex(assumeNotNull(key))), payload_bytes, hex(payload_start), letter_partition,
    letter_offset, letter_index
"""


def kinds(database: Database, selection: Selection) -> list[Kind]:
    """How many letters there are of each kind, the most first; the error of each is one of many."""
    where, values = selection.where()
    found = database.query(
        f"SELECT reason, topic, state, count() AS letters, min(put_aside), max(put_aside), argMax(error, put_aside) "  # noqa: S608
        f"FROM dead_letters WHERE {where} GROUP BY reason, topic, state ORDER BY letters DESC, reason, topic, state "
        f"LIMIT {_MOST_KINDS}",
        **values,
    )
    return [Kind(*row) for row in found.rows]


def newest(database: Database, selection: Selection, limit: int) -> list[Entry]:
    """The letters that were put aside last."""
    where, values = selection.where()
    order = "put_aside DESC, topic, kafka_partition, kafka_offset DESC"
    found = database.query(
        f"SELECT {_COLUMNS} FROM dead_letters WHERE {where} ORDER BY {order} LIMIT {{most:UInt32}}",  # noqa: S608
        **values,
        most=limit,
    )
    return [_entry(row) for row in found.rows]


def each(database: Database, selection: Selection) -> Iterator[Entry]:
    """All letters that there are now, in the order in which they lie in their topic, a page at a time.

    What is put aside meanwhile is left out: what is sent again and fails again would never come to an end.
    """
    where, values = selection.where()
    ends = "SELECT letter_partition, max(letter_offset) FROM dead_letter_events GROUP BY letter_partition"
    there = [f"(letter_partition = {at} AND letter_offset <= {end})" for at, end in database.query(ends).rows]
    if not there:
        return
    where = f"{where} AND ({' OR '.join(there)})"
    place, after = "(letter_partition, letter_offset, letter_index)", ""
    while True:
        page = database.query(
            f"SELECT {_COLUMNS} FROM dead_letters WHERE {where} {after} ORDER BY {place} LIMIT {_PAGE}",  # noqa: S608
            **values,
        ).rows
        yield from map(_entry, page)
        if len(page) < _PAGE:
            return
        last = _entry(page[-1]).place
        after = f"AND {place} > ({last.partition}, {last.offset}, {last.index})"


def count(database: Database, selection: Selection) -> int:
    """How many letters are meant."""
    where, values = selection.where()
    return int(database.query(f"SELECT count() FROM dead_letters WHERE {where}", **values).rows[0][0])  # noqa: S608


def replayed_before(database: Database, entry: Entry) -> list[Entry]:
    """Letters with the same payload that were replayed before this one was put aside: it came back."""
    found = database.query(
        f"SELECT {_COLUMNS} FROM dead_letters WHERE state = 'replayed' AND topic = {{topic:String}} "  # noqa: S608
        "AND kafka_partition = {partition:UInt32} AND kafka_offset < {offset:UInt64} "
        "AND payload_bytes = {bytes:UInt64} AND hex(payload_start) = {start:String} ORDER BY kafka_offset LIMIT 10",
        topic=entry.id.topic,
        partition=entry.id.partition,
        offset=entry.id.offset,
        bytes=entry.payload_bytes or 0,
        start=entry.payload_start.hex().upper(),
    )
    return [_entry(row) for row in found.rows]


def require(database: Database, ids: Sequence[LetterId]) -> list[Entry]:
    """The letters of these names, in any state. Raises UnknownLetter for one that there is not."""
    wanted = Selection(ids=tuple(ids), state=None)
    found = list(each(database, wanted))
    missing = [name for name in ids if name not in {entry.id for entry in found}]
    if missing:
        raise UnknownLetter(
            f"no message was put aside as {', '.join(map(str, missing))}; `pulsetrain dlq list` has those that were"
        )
    return found


def _entry(row: tuple[Any, ...]) -> Entry:
    (topic, partition, offset, topic_id, state, reason, error, put_aside, record_time, resolved, resolved_by) = row[:11]
    group, key, size, start, *place = row[11:]
    return Entry(
        id=LetterId(topic, partition, offset),
        topic_id=topic_id,
        state=state,
        reason=reason,
        error=error,
        put_aside=put_aside,
        record_time=record_time,
        resolved=resolved,
        resolved_by=resolved_by,
        consumer_group=group,
        key=None if key is None else bytes.fromhex(key),
        payload_bytes=size,
        payload_start=bytes.fromhex(start),
        place=Place(*place),
    )
