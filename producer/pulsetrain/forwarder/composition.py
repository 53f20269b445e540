"""What a forwarder is made of in earnest: Kafka, the hardware, the schema registry."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import psutil

from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder.control import KafkaListener
from pulsetrain.forwarder.kafka_delivery import KafkaDelivery
from pulsetrain.forwarder.liveness import created
from pulsetrain.forwarder.places import Place, Registration
from pulsetrain.forwarder.retention import Policy, Retention
from pulsetrain.forwarder.service import Forwarder
from pulsetrain.forwarder.telemetry import Telemetry
from pulsetrain_schemas import addresses
from pulsetrain_schemas.published import framing


def compose(place: Place, env: Mapping[str, str], idle_exit: float) -> Forwarder:
    """A forwarder for the Kafka that the environment, or the local stack, names at each moment."""
    own = (os.getpid(), created(os.getpid()) or 0.0)
    forwarder: Forwarder

    def register(writer: str, journal: Path) -> None:
        place.register(writer, Registration(str(journal), *own))

    def delivered() -> None:
        forwarder.delivered()

    def called() -> None:
        forwarder.called()

    frames = framing(env)
    forwarder = Forwarder(
        place,
        KafkaDelivery(lambda: addresses.kafka(env), notify=delivered),
        Telemetry(register, psutil=psutil, disk=place.path),
        host=socket.gethostname(),
        own=own,
        make_fold=SummaryFold,
        framing=frames,
        retention=Retention(place.directories, Policy.of(env)),
        listener=KafkaListener(lambda: addresses.kafka(env), frames, notify=called),
        idle_exit=idle_exit,
    )
    return forwarder
