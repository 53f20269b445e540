"""Bugs put in on purpose, as context managers that patch classes while they are open; and whether a model notices."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

Mutant = Callable[[], AbstractContextManager[None]]


class Mutants(dict[str, Mutant]):
    """The mutants of one service by name; used as a decorator, it takes another one in."""

    def __init__(self) -> None:
        super().__init__()
        self._applied = contextlib.ExitStack()

    def __call__(self, function: Callable[[], Iterator[None]]) -> Mutant:
        made = contextmanager(function)
        self[function.__name__] = made
        return made

    def apply(self, name: str) -> None:
        """Puts a mutant into this process, for as long as it lives. Raises KeyError for a name that is none."""
        self._applied.enter_context(self[name]())


def noticed(mutant: Mutant, model: type[RuleBasedStateMachine], examples: int = 3000) -> str:
    """Where, and with which words, the model failed under the mutant; empty where it noticed nothing.

    The histories are the same each time, so that what was noticed once always is.
    """
    wanted = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    with mutant():
        try:
            run_state_machine_as_test(model, settings=wanted)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            words = str(error).splitlines()
            return f"{frame.name}: {words[0] if words else frame.line}"
    return ""
