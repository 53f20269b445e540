"""Alerts as annotations of Grafana: marks, with run and kind as tags, that dashboards show."""

from collections.abc import Mapping
from http import HTTPStatus

import requests
from grafana_api.grafana_api import GrafanaClientError, GrafanaException
from grafana_api.grafana_face import GrafanaFace

from pulsetrain_consumers.monitor.sinks.formats import headline
from pulsetrain_consumers.monitor.sinks.sink import SinkRefused, SinkUnavailable
from pulsetrain_schemas.addresses import GrafanaAddress
from pulsetrain_schemas.events import Alert

TAG = "pulsetrain"
# What Grafana's database holds of a tag; of all together it takes 500 bytes unless it is told otherwise.
MOST_TAG_BYTES = 100


class Grafana:
    """Grafana at an address: http://USER:PASSWORD@HOST:3000, or http://TOKEN@HOST:3000 for a service account.

    Raises AddressError for an address that is none.
    """

    name = "grafana"

    def __init__(self, address: str) -> None:
        config = GrafanaAddress.parse(address).client_config()
        self._host = config["host"]
        self._face = GrafanaFace(**config)

    def send(self, alert: Alert) -> None:
        about = {"project": alert.project, "run": alert.run_id, "kind": alert.kind}
        tags = [TAG, *(f"{name}:{value}" for name, value in about.items()), alert.severity, alert.state]
        if alert.step is not None:
            tags.append(f"step:{alert.step}")
        # By this tag whoever finds an annotation twice (an answer that was lost) can tell.
        tags.append(f"alert:{alert.alert_id}")
        moment = (alert.started if alert.state == "firing" else alert.time) // 1_000
        try:
            answer = self._face.annotations.add_annotation(
                time_from=moment,
                time_to=moment,
                tags=[_cut(tag) for tag in tags],
                text=f"{headline(alert)}\n{alert.text}",
            )
        except GrafanaClientError as error:
            if error.status_code in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS):
                raise SinkUnavailable(f"Grafana at {self._host} answers {error.status_code}") from None
            raise SinkRefused(f"Grafana at {self._host} refuses an annotation: {error.message}") from None
        except (GrafanaException, requests.RequestException, ValueError, TypeError) as error:
            # A TypeError is what grafana-api (1.0.3) makes of an error page of a proxy that has "message" in it.
            raise SinkUnavailable(f"Grafana at {self._host} does not answer: {type(error).__name__}") from None
        if not isinstance(answer, Mapping) or "id" not in answer:  # a redirection makes a question of what is posted
            raise SinkRefused(f"Grafana at {self._host} took an annotation for something else: is the address right?")


def _cut(tag: str) -> str:
    return tag.encode("utf-8", "replace")[:MOST_TAG_BYTES].decode("utf-8", "ignore")
