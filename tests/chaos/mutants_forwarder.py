"""Bugs put into the forwarder's delivery on purpose: a test of the tests, which have to notice each of them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

from pulsetrain.forwarder import pump, service
from pulsetrain.forwarder.acknowledgement import Acknowledged, Ledger
from pulsetrain.forwarder.pump import Pump
from tests.chaos.mutation import Mutants

MUTANTS = mutant = Mutants()


@mutant
def acknowledges_before_sending_is_confirmed() -> Iterator[None]:
    """A step counts as confirmed as soon as it was handed to the delivery."""
    sent = Ledger.sent

    def at_once(self: Ledger, tickets: Any, after: Acknowledged) -> None:
        sent(self, (), after)

    with mock.patch.object(Ledger, "sent", at_once):
        yield


@mutant
def counts_a_step_when_any_of_its_messages_is_confirmed() -> Iterator[None]:
    """The first confirmation of a step stands for all its messages, whatever their topics."""
    sent = Ledger.sent

    def first_alone(self: Ledger, tickets: Any, after: Acknowledged) -> None:
        sent(self, sorted(tickets)[:1], after)

    with mock.patch.object(Ledger, "sent", first_alone):
        yield


@mutant
def counts_steps_out_of_order() -> Iterator[None]:
    """What is confirmed is acknowledged though a step before it is not."""
    settle = Ledger._settle

    def without_order(self: Ledger) -> None:
        settle(self)
        done = [step for step in self._steps if not step.unconfirmed]
        if done:
            self.acknowledged = done[-1].after

    with mock.patch.object(Ledger, "_settle", without_order):
        yield


@mutant
def forgets_what_was_in_flight_without_rewinding() -> Iterator[None]:
    """After an interruption reading goes on where it was."""

    def without_seeking(self: Pump) -> None:
        self._ledger.forget()

    with mock.patch.object(Pump, "rewind", without_seeking):
        yield


@mutant
def rewinds_and_takes_what_was_in_flight_for_sent() -> Iterator[None]:
    """After an interruption it reads again from what was confirmed, and skips what it had packed before."""
    rewind = Pump.rewind

    def with_old_coverage(self: Pump) -> None:
        sent = self._sent
        rewind(self)
        self._sent = sent

    with mock.patch.object(Pump, "rewind", with_old_coverage):
        yield


@mutant
def jumps_to_what_was_confirmed_without_reading_what_lies_before() -> Iterator[None]:
    """After an interruption reading goes on at what was confirmed, also where it had not come to that yet."""
    rewind = Pump.rewind

    def forward(self: Pump) -> None:
        rewind(self)
        self._tail.seek(self._ledger.acknowledged)

    with mock.patch.object(Pump, "rewind", forward):
        yield


@mutant
def takes_a_summary_for_told_that_is_dropped_downstream() -> Iterator[None]:
    """A summary counts as published though its event lies within what an earlier forwarder told."""
    changes = Pump._summary_changes

    def at_once(self: Pump, last: int) -> dict[str, str | None]:
        told, self._told_before = self._told_before, 0
        found = changes(self, last)
        self._told_before = told
        return found

    with mock.patch.object(Pump, "_summary_changes", at_once):
        yield


@mutant
def hears_of_an_interruption_before_the_confirmations() -> Iterator[None]:
    """An interruption is passed over when confirmations come with it."""
    hear = service.Forwarder._hear

    def deaf(self: service.Forwarder) -> None:
        poll = self._delivery.poll

        def quiet() -> Any:
            outcome = poll()
            return replace(outcome, interrupted=False) if outcome.confirmed else outcome

        with mock.patch.object(self._delivery, "poll", quiet):
            hear(self)

    with mock.patch.object(service.Forwarder, "_hear", deaf):
        yield


@mutant
def writes_down_a_position_ahead_of_what_is_covered() -> Iterator[None]:
    """ack.json has where reading is, beside what was confirmed."""
    save = Pump.save

    def ahead(self: Pump) -> None:
        acknowledged = self._ledger.acknowledged
        if acknowledged is not self._saved:
            self._ledger.acknowledged = replace(acknowledged, position=self._tail.position)
        save(self)
        self._ledger.acknowledged = self._saved = acknowledged

    with mock.patch.object(Pump, "save", ahead):
        yield


@mutant
def takes_a_journal_for_complete_when_its_end_was_read() -> Iterator[None]:
    """The end of a run need not be confirmed."""

    with mock.patch.object(Pump, "done", property(lambda self: self._ended)):
        yield


@mutant
def looks_whether_the_process_lives_after_it_read() -> Iterator[None]:
    """A process that logged and died since the last look is ended without its last records."""
    step = Pump.step

    def ending(self: Pump, now: float, *, alive: bool) -> pump.Pace:
        if alive or self._ended:
            return step(self, now, alive=alive)
        self._end(self._killed())
        return pump.Pace.PLENTY

    with mock.patch.object(Pump, "step", ending):
        yield


@mutant
def ends_a_killed_run_at_the_time_of_each_try() -> Iterator[None]:
    """The time at which a run was found dead is not kept: its end is another event each time that it is sent."""
    with (
        mock.patch.object(pump, "note_death", lambda journal, time: time),
        mock.patch.object(service, "note_death", lambda journal, time: time),
    ):
        killed = Pump._killed

        def now(self: Pump) -> Any:
            for event in killed(self):
                yield replace(event, time=event.time + next(self._tickets))

        with mock.patch.object(Pump, "_killed", now):
            yield
