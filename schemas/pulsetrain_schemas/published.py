"""Schemas on Kafka, for versions that live together: each producer publishes its own, each reader finds all.

A producer has a schema published when it first writes with it, on a thread of its own: nothing waits for that, and a
cluster that has no topic for schemas yet loses nothing but the mixing of versions. A reader that meets a fingerprint
that it does not know looks into the topic and, since the message may have been the faster one, is told to come back for
a few seconds before the schema counts as unknown.

What cannot be found must not hold up what can be read. All fingerprints together cost one look in a couple of seconds,
and after a wait in vain nothing is waited for during a time that is twenty times as long.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from pulsetrain_schemas import addresses, catalog
from pulsetrain_schemas.catalog import Schema
from pulsetrain_schemas.framing import Confluent, Framing, SingleObject
from pulsetrain_schemas.registry import Registry, RegistryUnavailable
from pulsetrain_schemas.schema_topic import NoSchemaTopic, SchemaTopic

log = logging.getLogger(__name__)

PATIENCE = 3.0
# Where the topic cannot be read, a schema may well be there: it is waited for as long as a broker takes to come back.
OUTAGE = 20
RESPITE = 20
LOOK_SECONDS = 2.0
RETRY_SECONDS = 1.0
NO_TOPIC_SECONDS = 30.0
MOST_WAITING = 1_000


class Topic(Protocol):
    """What is needed of `schema_topic.SchemaTopic`."""

    def read(self) -> Mapping[bytes, bytes]: ...

    def write(self, schemas: Mapping[bytes, bytes]) -> None: ...


def framing(env: Mapping[str, str] = os.environ, patience: float = PATIENCE) -> Framing:
    """How messages are framed here: by the schema registry where one is named, else by fingerprint.

    A reader waits `patience` seconds for a schema that is not published yet; 0 for one that reads what is long there.
    """
    single_object = SingleObject(PublishedSchemas(SchemaTopic(lambda: addresses.kafka(env)), patience))
    url = addresses.registry_url(env)
    return single_object if url is None else Confluent(Registry(url), single_object)


class PublishedSchemas:
    """See `framing.Schemas`. `announce` and `find` each belong to one thread."""

    def __init__(
        self, topic: Topic, patience: float = PATIENCE, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._topic = topic
        self._patience = patience
        self._monotonic = monotonic
        self._published: set[bytes] = set()
        self._to_publish: dict[bytes, Schema] = {}
        self._publishing: threading.Thread | None = None
        self._publish_at = 0.0
        self._content: Mapping[bytes, bytes] = {}
        self._outage: str | None = None
        self._schemas: dict[bytes, Schema] = {}
        self._waiting: dict[bytes, float] = {}
        self._look_at = 0.0
        self._respite_until = 0.0

    # -- writing

    def announce(self, schema: Schema) -> None:
        """Starts a thread that publishes the schema if the topic lacks it.

        The thread is no daemon: a process that ends right after its first message still publishes what that is in.
        """
        if schema.fingerprint in self._published:
            return
        self._to_publish[schema.fingerprint] = schema
        if (self._publishing is None or not self._publishing.is_alive()) and self._monotonic() >= self._publish_at:
            self._publishing = threading.Thread(target=self._publish, name="schemas")
            self._publishing.start()

    def _publish(self) -> None:
        """Tries until it is done, or the process ends. Where there is no topic, a later message tries again."""
        pause = threading.Event()
        while missing := {f: schema for f, schema in list(self._to_publish.items()) if f not in self._published}:
            try:
                content = self._topic.read()
                unsound = {f: schema for f, schema in missing.items() if _parsed(f, content.get(f)) is None}
                if unsound:
                    self._topic.write({f: json.dumps(schema.document).encode() for f, schema in unsound.items()})
                self._published.update(missing)
            except NoSchemaTopic as error:
                log.info("readers of other versions cannot learn of this one's schemas: %s", error)
                self._publish_at = self._monotonic() + NO_TOPIC_SECONDS
                return
            except RegistryUnavailable as error:
                log.debug("the schemas wait: %s", error)
                if not threading.main_thread().is_alive():
                    return
                pause.wait(RETRY_SECONDS)

    # -- reading

    def find(self, fingerprint: bytes) -> Schema | None:
        """Looks into the topic, at most every couple of seconds. RegistryUnavailable while a wait is worth it."""
        schema = self._schemas.get(fingerprint)
        if schema is not None:
            return schema
        since = self._waiting.setdefault(fingerprint, self._monotonic())
        if self._monotonic() >= self._look_at:
            self._look()
        schema = _parsed(fingerprint, self._content.get(fingerprint))
        if schema is not None:
            self._schemas[fingerprint] = schema
        else:
            self._wait(since, fingerprint)
        del self._waiting[fingerprint]
        return schema

    def _wait(self, since: float, fingerprint: bytes) -> None:
        """Raises RegistryUnavailable, unless this was waited for in vain, or so was another not long ago."""
        now = self._monotonic()
        patience = self._patience if self._outage is None else OUTAGE * self._patience
        if now - since >= patience:
            self._respite_until = now + RESPITE * patience
        elif now >= self._respite_until and len(self._waiting) <= MOST_WAITING:
            raise RegistryUnavailable(
                self._outage or f"the schema {fingerprint.hex()} is not published; it is waited for a few seconds"
            )

    def _look(self) -> None:
        try:
            self._content, self._outage = self._topic.read(), None
        except NoSchemaTopic:
            self._content, self._outage = {}, None
        except RegistryUnavailable as error:
            self._outage = str(error)
        self._look_at = self._monotonic() + LOOK_SECONDS


def _parsed(fingerprint: bytes, value: bytes | None) -> Schema | None:
    """The schema that was published under a fingerprint; None where it is none of ours, or not what the key says."""
    if value is None:
        return None
    try:
        schema = catalog.recognise(json.loads(value))
    except (ValueError, RecursionError):
        return None
    return schema if schema is not None and schema.fingerprint == fingerprint else None
