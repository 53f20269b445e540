"""What Kafka has confirmed of one journal: kept in order while messages are in flight, and on disk in `ack.json`.

A journal is read in steps; a step is over when all its messages are confirmed, and it counts when all steps before it
are over too. So the position, the ranges covered per topic and the counters on disk always belong together, and a
forwarder that starts from them sends again at most what was in flight: ranges then overlap and never leave a gap.
"""

import json
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pulsetrain.forwarder.places import read_json, write_atomically
from pulsetrain.journal.format import START, Position

ACK_FILE = "ack.json"


@dataclass(frozen=True, slots=True)
class Counters:
    """What a writer has logged: rows, the numbers in them, and the values that are no numbers."""

    rows: int = 0
    points: int = 0
    texts: int = 0


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The content of `ack.json`: everything before `position` is in Kafka.

    `covered` has, by topic, the last sequence that a message accounts for. `complete`: the journal has ended, its run
    event of the end included.
    """

    position: Position = START
    sequence: int = 0
    covered: Mapping[str, int] = field(default_factory=dict)
    counters: Counters = Counters()
    complete: bool = False

    @classmethod
    def load(cls, journal: Path) -> "Acknowledged":
        """What the file of this journal says; nothing confirmed where there is none or it is not whole."""
        found = read_json(journal / ACK_FILE)
        try:
            return cls() if found is None else cls.of(found)
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls()

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Acknowledged":
        """What `document` gave; KeyError, TypeError, ValueError or AttributeError where it is something else."""
        return cls(
            Position(int(found["segment"]), int(found["offset"])),
            int(found["sequence"]),
            {str(topic): int(last) for topic, last in found["covered"].items()},
            Counters(int(found["rows"]), int(found["points"]), int(found["texts"])),
            bool(found["complete"]),
        )

    def document(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "segment": self.position.segment,
            "offset": self.position.offset,
            "sequence": self.sequence,
            "covered": dict(self.covered),
            "rows": self.counters.rows,
            "points": self.counters.points,
            "texts": self.counters.texts,
            "complete": self.complete,
        }

    def save(self, journal: Path) -> None:
        """Replaces the file whole. It is not synced: an older one only means that more is sent again."""
        write_atomically(journal / ACK_FILE, json.dumps(self.document()).encode())


@dataclass(slots=True)
class _Step:
    after: Acknowledged
    unconfirmed: set[Hashable]


class Ledger:
    """The steps of one journal that are in flight, oldest first, and what has been confirmed before them."""

    def __init__(self, acknowledged: Acknowledged) -> None:
        self.acknowledged = acknowledged
        self._steps: deque[_Step] = deque()
        self._of_ticket: dict[Hashable, _Step] = {}

    @property
    def settled(self) -> bool:
        """Whether nothing is in flight."""
        return not self._steps

    def sent(self, tickets: Iterable[Hashable], after: Acknowledged) -> None:
        """A step was sent: `after` holds once all its tickets are confirmed. A step without messages has no tickets."""
        step = _Step(after, set(tickets))
        self._steps.append(step)
        for ticket in step.unconfirmed:
            self._of_ticket[ticket] = step
        self._settle()

    def confirm(self, ticket: Hashable) -> None:
        """One message of a step is in Kafka. Tickets that are not known (of a delivery given up) are ignored."""
        step = self._of_ticket.pop(ticket, None)
        if step is not None:
            step.unconfirmed.discard(ticket)
            self._settle()

    def forget(self) -> Acknowledged:
        """Gives up all steps in flight; reading starts again from what this returns."""
        self._steps.clear()
        self._of_ticket.clear()
        return self.acknowledged

    def _settle(self) -> None:
        while self._steps and not self._steps[0].unconfirmed:
            self.acknowledged = self._steps.popleft().after
