"""Alerts sent on: to whom, in which order, and what is committed when a place is away, refuses or the monitor ends."""

import random
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pulsetrain_consumers.monitor.notifications import TRY_SECONDS, Notifications, Route
from pulsetrain_consumers.monitor.place import Place
from pulsetrain_consumers.monitor.sinks.sink import SinkRefused, SinkUnavailable
from pulsetrain_consumers.monitor.telemetry import MonitorTelemetry
from pulsetrain_consumers.monitor.telling import ALERT_TOPIC
from pulsetrain_consumers.runtime.broker import Partition, Position
from pulsetrain_consumers.runtime.memory import MemoryBroker
from pulsetrain_schemas import events
from pulsetrain_schemas.events import Alert
from pulsetrain_schemas.framing import SINGLE_OBJECT
from tests.unit import test_monitor_sinks
from tests.waiting import wait_for
from tests.writer_rig import ManualClock

GROUP = "pulsetrain-monitor"
# A NaN is not equal to itself.
ALERT = replace(test_monitor_sinks.ALERT, value=1.5)
RESOLVED = replace(test_monitor_sinks.RESOLVED, value=1.5)
FIRST = Partition(ALERT_TOPIC, 0)


class Recorder:
    """A sink that writes down what it gets, in the order that it does; `failure` is what it says instead."""

    def __init__(self, name: str = "recorder") -> None:
        self.name = name
        self.failure: Exception | None = None
        self.sent: list[Alert] = []
        self.tries = 0

    def send(self, alert: Alert) -> None:
        self.tries += 1
        if self.failure is not None:
            raise self.failure
        self.sent.append(alert)


class Held(Recorder):
    """One that takes its time over each."""

    def __init__(self) -> None:
        super().__init__("held")
        self.may_go = threading.Event()

    def send(self, alert: Alert) -> None:
        self.tries += 1
        assert self.may_go.wait(30)
        self.sent.append(alert)


class Group:
    """Members of the monitors' group on a broker in memory."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.broker = MemoryBroker(self.clock)
        self.broker.create_topic(ALERT_TOPIC, 1)
        self.places: list[Place] = []
        self.telemetry = MonitorTelemetry()

    def member(self, *routes: Route) -> Place:
        notifications = Notifications(routes, clock=self.clock, random=random.Random(1), telemetry=self.telemetry)
        place = Place(self.broker.consumer(GROUP, [ALERT_TOPIC]), notifications, SINGLE_OBJECT)
        self.places.append(place)
        return place

    def tell(self, *alerts: Alert) -> None:
        self.broker.publish(ALERT_TOPIC, [(b"r", events.encode(alert)) for alert in alerts])

    def committed(self) -> int | None:
        found = self.broker.group_position(GROUP, FIRST)
        return None if found is None else found.offset

    def until_committed(self, offset: int, *places: Place) -> None:
        def polled() -> bool:
            for place in places:
                place.poll(0)
            return self.committed() == offset

        wait_for(polled, what=f"the commit of {offset}")

    def count(self, sink: str, outcome: str) -> float:
        labels = {"sink": sink, "outcome": outcome}
        return self.telemetry.registry.get_sample_value("pulsetrain_monitor_notifications_total", labels) or 0.0


@pytest.fixture
def group() -> Iterator[Group]:
    found = Group()
    yield found
    for place in found.places:
        place.close()


def numbered(count: int) -> list[Alert]:
    return [replace(ALERT, alert_id=f"a{number}") for number in range(count)]


@pytest.mark.parametrize(
    ("route", "alert", "wanted"),
    [
        ({}, ALERT, True),
        ({}, RESOLVED, True),
        ({}, replace(ALERT, state="pending"), False),
        ({}, replace(ALERT, state="unknown"), False),
        ({}, replace(ALERT, silenced=True), False),
        ({}, replace(ALERT, kind="user"), True),
        ({}, replace(RESOLVED, kind="user"), False),
        ({"ends": False}, RESOLVED, False),
        ({"ends": False}, ALERT, True),
        ({"severity": "warning"}, replace(ALERT, severity="info"), False),
        ({"severity": "warning"}, replace(ALERT, severity="warning"), True),
        ({"severity": "warning"}, ALERT, True),
        ({"severity": "critical"}, replace(ALERT, severity="warning"), False),
        ({"projects": ["vision-*"]}, ALERT, False),
        ({"projects": ["x", "vis*"]}, ALERT, True),
        ({"projects": []}, ALERT, False),
        ({"projects": ["VISION"]}, ALERT, False),
        ({"projects": ["\ud55c\uad6d*"]}, replace(ALERT, project="\ud55c\uad6d\uc5b4"), True),
        ({"kinds": ["nan"]}, ALERT, True),
        ({"kinds": ["stall", "oom"]}, ALERT, False),
    ],
)
def test_a_route_gets_what_it_asked_for(route: dict[str, object], alert: Alert, wanted: bool):
    assert Route(Recorder(), **route).wants(alert) is wanted  # type: ignore[arg-type]


def test_alerts_go_to_every_sink_that_wants_them_in_order_and_are_committed_then(group: Group):
    all_of_them, ends_not = Recorder("all"), Recorder("some")
    place = group.member(Route(all_of_them), Route(ends_not, ends=False))
    place.poll(0)
    group.tell(*numbered(3), RESOLVED)
    group.until_committed(4, place)
    assert all_of_them.sent == [*numbered(3), RESOLVED]
    assert ends_not.sent == numbered(3)
    assert group.count("all", "sent") == 4


def test_a_group_that_has_committed_nothing_begins_at_the_end(group: Group):
    sink = Recorder()
    group.tell(*numbered(3))
    place = group.member(Route(sink))
    group.until_committed(3, place)
    group.tell(RESOLVED)
    group.until_committed(4, place)
    assert sink.sent == [RESOLVED]


def test_with_nowhere_to_send_what_is_told_is_committed(group: Group):
    place = group.member()
    place.poll(0)
    group.tell(*numbered(3))
    group.until_committed(3, place)


def test_a_sink_that_is_away_holds_up_no_other_and_what_is_not_sent_is_not_committed(group: Group):
    away, other = Recorder("away"), Recorder("other")
    away.failure = SinkUnavailable("away")
    place = group.member(Route(away), Route(other))
    place.poll(0)
    group.tell(*numbered(3))
    place.poll(0)
    wait_for(lambda: other.sent == numbered(3) and away.tries >= 2, what="the other's alerts, and a second try")
    place.poll(0)
    assert group.committed() == 0
    away.failure = None
    group.until_committed(3, place)
    assert (away.sent, other.sent) == (numbered(3), numbered(3))


def test_a_sink_that_refuses_is_not_asked_again_and_the_next_alert_is_sent(group: Group):
    sink = Recorder()
    sink.failure = SinkRefused("no")
    place = group.member(Route(sink))
    place.poll(0)
    group.tell(ALERT)
    group.until_committed(1, place)
    assert (sink.tries, group.count("recorder", "refused")) == (1, 1)
    sink.failure = None
    group.tell(RESOLVED)
    group.until_committed(2, place)
    assert sink.sent == [RESOLVED]


def test_a_sink_with_a_defect_counts_as_one_that_refuses(group: Group):
    sink = Recorder()
    sink.failure = ZeroDivisionError("a defect")
    place = group.member(Route(sink))
    place.poll(0)
    group.tell(ALERT)
    group.until_committed(1, place)
    assert group.count("recorder", "refused") == 1


def test_what_cannot_be_sent_for_ten_minutes_is_given_up_all_of_it_together(group: Group):
    """Each alert is tried for ten minutes from when it came, not from when those before it were given up."""
    sink = Recorder()
    sink.failure = SinkUnavailable("away")
    place = group.member(Route(sink))
    place.poll(0)
    group.tell(*numbered(4))
    place.poll(0)
    wait_for(lambda: sink.tries, what="a try")
    group.clock.time += TRY_SECONDS
    group.until_committed(4, place)
    assert group.count("recorder", "given up") == 4


def test_what_was_not_sent_is_sent_by_the_monitor_that_comes_up(group: Group):
    away, other = Recorder("away"), Recorder("other")
    away.failure = SinkUnavailable("away")
    place = group.member(Route(away), Route(other))
    place.poll(0)
    group.tell(*numbered(3))
    place.poll(0)
    wait_for(lambda: other.sent == numbered(3), what="the other's alerts")
    group.places.pop().close()
    away, other = Recorder("away"), Recorder("other")
    group.until_committed(3, group.member(Route(away), Route(other)))
    assert (away.sent, other.sent) == (numbered(3), numbered(3))


def test_a_member_that_is_thrown_out_drops_what_it_has_and_another_sends_it(group: Group):
    held, sink = Held(), Recorder()
    first = group.member(Route(held))
    group.places.remove(first)
    assert first.poll(0)
    group.tell(*numbered(3))
    first.poll(0)
    wait_for(lambda: held.tries, what="a try")
    for member in group.broker.members():
        group.broker.expel(member)
    second = group.member(Route(sink))
    group.until_committed(3, second)
    assert first.poll(0), "it is a member again, the first one"
    assert not second.poll(0)
    held.may_go.set()
    wait_for(lambda: held.sent, what="what was in its hands")
    first.close()
    assert (sink.sent, len(held.sent)) == (numbered(3), 1)
    assert group.committed() == 3


def test_one_works_and_the_other_takes_its_place(group: Group):
    first, second = group.member(), group.member()
    assert [first.poll(0), second.poll(0)] == [True, False]
    group.places.remove(first)
    first.close()
    assert second.poll(0)


def test_a_topic_of_several_partitions_is_shared_and_one_works():
    group = Group()
    group.broker.delete_topic(ALERT_TOPIC)
    group.broker.create_topic(ALERT_TOPIC, 3)
    members = [group.member() for _ in range(3)]
    assert sorted(member.poll(0) for member in members) == [False, False, True]
    for member in members:
        member.close()


def test_while_the_broker_is_away_nothing_is_lost(group: Group):
    sink = Recorder()
    place = group.member(Route(sink))
    place.poll(0)
    group.tell(*numbered(2))
    place.poll(0)
    group.broker.away = True
    wait_for(lambda: len(sink.sent) == 2, what="the alerts")
    assert place.poll(0), "it keeps its place"
    group.broker.away = False
    group.until_committed(2, place)


def test_what_is_no_alert_is_passed_over(group: Group):
    sink = Recorder()
    place = group.member(Route(sink))
    place.poll(0)
    for garbage in (b"", b"garbage", events.encode(ALERT)[:-3], None):
        group.broker.append(FIRST, garbage)
    group.tell(ALERT)
    group.until_committed(5, place)
    assert sink.sent == [ALERT]


def test_a_topic_that_was_created_again_is_sent_on_from_its_beginning(group: Group):
    sink = Recorder()
    group.broker.delete_topic(ALERT_TOPIC)
    group.broker.create_topic(ALERT_TOPIC, 1)
    place = group.member(Route(sink))
    group.broker.set_group_position(GROUP, FIRST, Position(100))
    group.tell(ALERT)
    group.until_committed(1, place)
    assert sink.sent == [ALERT]
