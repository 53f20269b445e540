"""Alerts into their topic: each as a message, all at once, and what cannot be a message left out and counted."""

import logging
from collections.abc import Sequence

from pulsetrain_consumers.monitor.telemetry import MonitorTelemetry
from pulsetrain_consumers.runtime.broker import MessageTooLarge, Publisher
from pulsetrain_schemas import events
from pulsetrain_schemas.columnar import EncodeError
from pulsetrain_schemas.events import Alert
from pulsetrain_schemas.framing import Framing
from pulsetrain_schemas.topics import TOPICS

log = logging.getLogger(__name__)

ALERT_TOPIC = TOPICS["alerts"].kafka_name
Message = tuple[bytes | None, bytes]


class Teller:
    """Publishes alerts in their order."""

    def __init__(self, publisher: Publisher, framing: Framing, telemetry: MonitorTelemetry) -> None:
        self._publisher = publisher
        self._framing = framing
        self._telemetry = telemetry

    def tell(self, alerts: Sequence[Alert]) -> None:
        """Raises BrokerUnavailable, and RegistryError: then it is not known which were told."""
        messages: list[Message] = []
        for alert in alerts:
            try:
                messages.append((events.message_key(alert), events.encode(alert, self._framing)))
            except (EncodeError, UnicodeError):  # a name or a figure that a message cannot hold
                self._telemetry.errors.labels("untellable").inc()
                log.exception("an alert of run %s of %s cannot be told", alert.run_id, alert.project)
        if messages:
            self._publish(messages)

    def _publish(self, messages: Sequence[Message]) -> None:
        try:
            self._publisher.publish(ALERT_TOPIC, messages)
        except MessageTooLarge:
            if len(messages) > 1:
                for message in messages:
                    self._publish([message])
                return
            self._telemetry.errors.labels("untellable").inc()
            log.error("an alert of run %s is too large to be told", messages[0][0])
