"""What a metric is, by its name: the words of its path are what people call such things."""

import functools
import itertools
import re
from enum import StrEnum


class Role(StrEnum):
    """What the detectors take a metric for."""

    LOSS = "loss"
    RARE_LOSS = "rare_loss"
    ADVERSARIAL_LOSS = "adversarial_loss"
    GRADIENT_NORM = "gradient_norm"
    STEP = "step"
    WAIT = "wait"
    COMMUNICATION = "communication"
    FORWARD = "forward"
    RATE = "rate"
    OTHER = "other"


JOB_VIEW = {
    "pulsetrain/step_seconds": Role.STEP,
    "pulsetrain/data_wait_seconds": Role.WAIT,
    "pulsetrain/communication_seconds": Role.COMMUNICATION,
    "pulsetrain/forward_seconds": Role.FORWARD,
    "pulsetrain/examples_per_second": Role.RATE,
    "pulsetrain/tokens_per_second": Role.RATE,
}

_LOSS = {"loss", "losses", "nll", "perplexity", "ppl", "bpb", "xent", "crossentropy"}
_RARE = {"val", "valid", "validation", "eval", "evaluation", "test", "dev", "holdout"}
# Losses of games: they rise and oscillate while all is well (GANs), or grow with the rewards (reinforcement learning).
_ADVERSARIAL = {
    *("policy", "value", "critic", "actor", "entropy", "kl", "adv", "adversarial", "vf", "pg", "td", "q", "alpha"),
    *("gen", "generator", "g", "disc", "discriminator", "d", "gan", "reward"),
}
_SEPARATORS = re.compile(r"[^a-z0-9]+|(?<=[a-z])(?=[A-Z])")


@functools.lru_cache(maxsize=65_536)
def role(name: str) -> Role:
    """The role of a metric with this name."""
    known = JOB_VIEW.get(name)
    if known is not None:
        return known
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    words = [word for word in _SEPARATORS.split(spaced) if word]
    found = set(words)
    rare = not found.isdisjoint(_RARE)
    pairs = set(itertools.pairwise(words))
    if "gradnorm" in found or not pairs.isdisjoint({("grad", "norm"), ("gradient", "norm"), ("gradients", "norm")}):
        return Role.OTHER if rare else Role.GRADIENT_NORM
    entropy = ("cross", "entropy") in pairs
    if found.isdisjoint(_LOSS) and not entropy and "trainloss" not in found:
        return Role.OTHER
    if rare:
        return Role.RARE_LOSS
    if found.isdisjoint(_ADVERSARIAL - {"entropy"} if entropy else _ADVERSARIAL):
        return Role.LOSS
    return Role.ADVERSARIAL_LOSS
