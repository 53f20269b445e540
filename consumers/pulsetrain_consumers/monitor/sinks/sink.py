"""What every sink is."""

from typing import Protocol

from pulsetrain_schemas.events import Alert


class SinkUnavailable(Exception):
    """The place did not take it now: to be tried again."""


class SinkRefused(Exception):
    """The place will never take it as it is: a wrong address, a wrong secret, a message that it does not understand."""


class Sink(Protocol):
    """One place. Called on a thread of its own, one alert at a time."""

    @property
    def name(self) -> str:
        """For logs and metrics; nothing secret."""

    def send(self, alert: Alert) -> None:
        """Sends one change of an alert, which may come again. Raises SinkUnavailable and SinkRefused."""
