"""Run ids and names: how they are made up, and what they may be."""

import os
from collections.abc import Callable, Sequence

from pulsetrain._run.errors import UsageError
from pulsetrain._run.values import clean_text

ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
FORBIDDEN_IN_IDS = ":;,#?/'"
FORBIDDEN_IN_PROJECTS = "/\\#?%:"
MAX_NAME_CHARACTERS = 128
MAX_TAG_CHARACTERS = 64

_ADJECTIVES = tuple(
    """amber bold brisk bright calm clear cosmic crisp daring deep eager early earnest faithful fresh gentle
glad golden grand happy hardy honest humble keen kind light lively lucid lucky mellow merry mild neat noble polished
proud quick quiet radiant rapid ready royal serene sharp silver smooth snug solar steady stellar still sunny swift
tidy toasty treasured true upbeat vivid warm wild wise worthy young zesty""".split()  # noqa: SIM905 - shorter, and read as easily
)
_NOUNS = tuple(
    """acorn badger beacon birch breeze brook canyon cedar cloud comet coral crane dawn delta dune eagle ember
falcon fern field finch firefly fjord flame forest fox galaxy garden glacier grove harbor hare haze heron hill island
jay juniper lagoon lake lantern lark leaf lynx maple marsh meadow meteor moon moss mountain oak ocean orchard otter
owl pebble pine planet plum pond puddle quail rain raven reef ridge river robin sea shadow sky snow spark star stone
stream sun surf swan tern thunder tide trail tree valley violet wave willow wind wolf wren""".split()  # noqa: SIM905
)


Entropy = Callable[[int], bytes]


def new_run_id(entropy: Entropy = os.urandom) -> str:
    """Eight characters of a-z and 0-9, as W&B's. Not from `random`, whose seed belongs to the training program."""
    return "".join(ID_ALPHABET[_below(len(ID_ALPHABET), entropy)] for _ in range(8))


def new_name(number: int, entropy: Entropy = os.urandom) -> str:
    """A name like brisk-otter-12."""
    adjective = _ADJECTIVES[_below(len(_ADJECTIVES), entropy)]
    return f"{adjective}-{_NOUNS[_below(len(_NOUNS), entropy)]}-{number}"


def _below(limit: int, entropy: Entropy) -> int:
    return int.from_bytes(entropy(8), "big") % limit


def checked_project(project: str) -> str:
    """UsageError where the name of a project would not do in W&B either."""
    if not isinstance(project, str):
        raise UsageError(f"project is to be text, not {type(project).__name__}")
    _check("project", project, FORBIDDEN_IN_PROJECTS)
    return project


def checked_run_id(run_id: str) -> str:
    """UsageError where it would not do as a run id."""
    run_id = str(run_id)
    _check("run id", run_id, FORBIDDEN_IN_IDS)
    return run_id


def checked_tags(tags: str | Sequence[str]) -> tuple[str, ...]:
    """Tags without repetition, in order. UsageError for a tag that is empty or longer than 64 characters."""
    given = (tags,) if isinstance(tags, str) else tuple(tags)
    for tag in given:
        if not isinstance(tag, str) or not 1 <= len(tag) <= MAX_TAG_CHARACTERS:
            raise UsageError(f"tag {tag!r}: a tag is text of 1 to {MAX_TAG_CHARACTERS} characters")
    return tuple(dict.fromkeys(map(clean_text, given)))


def _check(what: str, text: str, forbidden: str) -> None:
    if not text.strip():
        raise UsageError(f"the {what} is empty")
    if text != text.strip() and what == "run id":
        raise UsageError(f"the {what} {text!r} begins or ends with a space")
    if len(text) > MAX_NAME_CHARACTERS:
        raise UsageError(f"the {what} has {len(text)} characters; at most {MAX_NAME_CHARACTERS} are allowed")
    found = [character for character in text if character in forbidden or not character.isprintable()]
    if found:
        raise UsageError(f"the {what} {text!r} holds {found[0]!r}; none of {forbidden} may be in it")
