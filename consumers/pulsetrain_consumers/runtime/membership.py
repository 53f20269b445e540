"""A consumer's place in its group, which it leaves at once when it ends, however it ends.

Each member has a name of its own that is used once (in Kafka's words: it is static). The name is in the roster of the
machine before the group hears of it. Every member looks there for those that have died, and makes them leave: Kafka
itself would wait for the end of their session, with everything that they held, and let no other member join meanwhile.

Static membership as Kafka means it, one name for all lives of a service, would do without that for a single service,
but not give its partitions to others; and a member that returns so has no say in the group: kafka-python (3.0.12) is
then not told to lead it, and nobody sees when a topic gets more partitions.
"""

import logging
import threading
from collections.abc import Sequence

from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove
from kafka.errors import KafkaError, NoError, UnknownMemberIdError

from pulsetrain_consumers.runtime.roster import Roster
from pulsetrain_schemas.addresses import KafkaAddress

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
_AGAIN_SECONDS = 1.0
_ANSWER_MS = 2_000


class Membership:
    """One member at a time. `enter` and `leave` are called on one thread; the dead are seen to on another."""

    def __init__(self, address: KafkaAddress, group: str, roster: Roster) -> None:
        self._address = address
        self._group = group
        self._roster = roster
        self._name: str | None = None
        self._left = threading.Event()
        self._thread: threading.Thread | None = None

    def enter(self) -> str | None:
        """The name to join with, the same until `leave`; None where it cannot be written down.

        Without a name, the group misses the member only when its session is over.
        """
        if self._name is None:
            try:
                self._name = self._roster.enter()
            except OSError as error:
                log.warning("should this process be killed, its group misses it late: %s", error)
        return self._name

    def watch(self) -> None:
        """Begins to see to the dead. Called when this member joins: a group that has lost all may keep it waiting."""
        if self._thread is None and self._name is not None:
            self._left.clear()
            self._thread = threading.Thread(target=self._watch, name="membership", daemon=True)
            self._thread.start()

    def leave(self) -> None:
        """Leaves the group. Where Kafka does not answer, the name stays in the roster, for others to see to."""
        self._left.set()
        if self._thread is not None:
            self._thread.join(2 * _ANSWER_MS / 1000)
            self._thread = None
        if self._name is None:
            return
        name, self._name = self._name, None
        try:
            self._remove([name], "it ends")
            self._roster.leave(name)
        except (KafkaError, OSError) as error:
            log.info("the group was not told that this member leaves: %s", error)

    def _watch(self) -> None:
        pause = _LOOK_SECONDS
        while not self._left.wait(pause):
            try:
                with self._roster.dead() as names:
                    if names:
                        self._remove(names, "its process has died")
                        log.info("taken out of the group, for they have died: %s", ", ".join(names))
                pause = _LOOK_SECONDS
            except (KafkaError, OSError) as error:
                log.debug("the dead stay in the group for now: %s", error)
                pause = _AGAIN_SECONDS

    def _remove(self, names: Sequence[str], reason: str) -> None:
        """Takes members out of the group; one that is not in it is no error. Raises KafkaError."""
        members = [MemberToRemove(group_instance_id=name, reason=reason) for name in names]
        admin = KafkaAdminClient(
            client_id="pulsetrain-membership",
            bootstrap_timeout_ms=_ANSWER_MS,
            request_timeout_ms=_ANSWER_MS,
            **self._address.client_config(),
        )
        try:
            outcomes = admin.remove_group_members(self._group, members)
        finally:
            admin.close()
        for outcome in outcomes.values():
            if outcome not in (NoError, UnknownMemberIdError):
                raise outcome()
