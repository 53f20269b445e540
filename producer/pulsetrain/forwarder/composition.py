"""What a forwarder is made of in earnest: Kafka, the hardware, the schema registry."""

import logging
import math
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import psutil

from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder.kafka_delivery import KafkaDelivery
from pulsetrain.forwarder.liveness import created
from pulsetrain.forwarder.places import Place, Registration
from pulsetrain.forwarder.retention import Policy, Retention
from pulsetrain.forwarder.service import Forwarder
from pulsetrain.forwarder.telemetry import Telemetry
from pulsetrain.journal import room
from pulsetrain_schemas import addresses
from pulsetrain_schemas.published import framing

logger = logging.getLogger(__name__)


def policy(env: Mapping[str, str]) -> Policy:
    """How long journals are kept and what they may take, by the environment. What is not understood removes nothing."""
    try:
        return Policy(room.retention(env), room.max_bytes(env))
    except ValueError as error:
        logger.error("%s; until the forwarder is started again, nothing is removed for its age", error)
        return Policy(retention=math.inf)


def compose(place: Place, env: Mapping[str, str], idle_exit: float) -> Forwarder:
    """A forwarder for the Kafka that the environment, or the local stack, names at each moment."""
    own = (os.getpid(), created(os.getpid()) or 0.0)
    forwarder: Forwarder

    def register(writer: str, journal: Path) -> None:
        place.register(writer, Registration(str(journal), *own))

    def delivered() -> None:
        forwarder.delivered()

    forwarder = Forwarder(
        place,
        KafkaDelivery(lambda: addresses.kafka(env), notify=delivered),
        Telemetry(register, psutil=psutil, disk=place.path),
        host=socket.gethostname(),
        own=own,
        make_fold=SummaryFold,
        framing=framing(env),
        retention=Retention(place.directories, policy(env)),
        idle_exit=idle_exit,
    )
    return forwarder
