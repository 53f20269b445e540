"""What is logged of the steps that a timer measured: a row for so many steps, with the names that the monitor knows."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pulsetrain._run.history import History, NoHistory

PREFIX = "pulsetrain/"
OTHER, DATA_WAIT, FORWARD, BACKWARD, OPTIMIZER, COMMUNICATION = range(6)
NAMES = ("other", "data_wait", "forward", "backward", "optimizer", "communication")
# Before the first phase there is no step yet: what passes then belongs to none.
IDLE = 6
# What belongs to no step either, and is not logged.
ASIDE = 7
FIRST_NAMED = 8
# Further phases that are kept apart.
MAX_NAMED = 100

STEP_SECONDS = f"{PREFIX}step_seconds"
EXAMPLES = f"{PREFIX}examples_per_second"
TOKENS = f"{PREFIX}tokens_per_second"
MFU = f"{PREFIX}mfu"


class StepRows:
    """Adds steps up, and logs means and rates of every so many. Its rows never move the run's step."""

    def __init__(self, history: "History | NoHistory", every: int, mfu: Callable[[float], float | None]) -> None:
        """`mfu(tokens a second)` gives the utilisation, or None."""
        self.keys = [f"{PREFIX}{name}_seconds" for name in (*NAMES, "idle", "aside")]
        """What each phase is logged as."""
        self._history = history
        self._every = every
        self._mfu = mfu
        # The phases that have come, and those that have not yet: once one has, each row has it, so that columns go
        # together.
        self._present: list[tuple[int, str]] = []
        self._absent = [(index, self.keys[index]) for index in range(DATA_WAIT, IDLE)]
        self._seconds: list[float] = []
        self._steps = 0
        self._examples = 0.0
        self._tokens = 0.0
        self._at = 0

    def add_phase(self, name: str) -> int | None:
        """The number of a phase that is no training; None where it can have none of its own."""
        key = f"{PREFIX}{name}_seconds"
        if name in NAMES:
            return NAMES.index(name)
        if key in self.keys[FIRST_NAMED:]:
            return self.keys.index(key, FIRST_NAMED)
        if name == "step" or len(self.keys) >= MAX_NAMED:
            return None
        self.keys.append(key)
        return len(self.keys) - 1

    def add(self, seconds: list[float], examples: float, tokens: float, at: int) -> None:
        """Takes a step: seconds by phase, what was worked through, and the step of the run that it belongs to."""
        if self._every == 1:
            self._log(self._row(seconds, 1, examples, tokens), at)
            return
        if self._steps:
            before = self._seconds
            before += [0.0] * (len(seconds) - len(before))
            for index, value in enumerate(seconds):
                before[index] += value
        else:
            self._seconds = seconds
        self._steps += 1
        self._examples += examples
        self._tokens += tokens
        self._at = at
        if self._steps >= self._every:
            self.flush()

    def flush(self, rest: list[float] | None = None) -> None:
        """Logs the steps that were taken since the last row; of `rest`, seconds by phase, what is no training."""
        row: dict[str, float] = {}
        if self._steps:
            row = self._row(self._seconds, self._steps, self._examples, self._tokens)
        self._steps, self._examples, self._tokens = 0, 0.0, 0.0
        if rest is not None:
            self._add_named(row, rest)
        if row:
            self._log(row, self._at)

    def _row(self, seconds: list[float], steps: int, examples: float, tokens: float) -> dict[str, float]:
        other, wait, forward, backward, optimizer, communication = seconds[:IDLE]
        whole = other + wait + forward + backward + optimizer + communication
        row = {STEP_SECONDS: whole / steps}
        for index, _ in self._absent:
            if seconds[index]:
                self._come(index)
        for index, key in self._present:
            row[key] = seconds[index] / steps
        if whole > 0:
            if examples:
                row[EXAMPLES] = examples / whole
            if tokens:
                rate = row[TOKENS] = tokens / whole
                mfu = self._mfu(rate)
                if mfu is not None:
                    row[MFU] = mfu
        if len(seconds) > FIRST_NAMED:
            self._add_named(row, seconds)
        return row

    def _come(self, index: int) -> None:
        phase = index, self.keys[index]
        self._present = sorted((*self._present, phase))
        self._absent = [other for other in self._absent if other != phase]

    def _add_named(self, row: dict[str, float], seconds: list[float]) -> None:
        for key, value in zip(self.keys[FIRST_NAMED:], seconds[FIRST_NAMED:], strict=False):
            if value:
                row[key] = row.get(key, 0.0) + value

    def _log(self, row: dict[str, float], at: int) -> None:
        history = self._history
        self._at = at
        try:
            if not history.finished:
                history.log(row, at, False)
        except Exception as error:  # noqa: BLE001 - the run ended in another thread
            history.faults.note("step timer", f"the times of a step could not be logged: {error!r}")
