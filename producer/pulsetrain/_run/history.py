"""log() down to the journal: which step a row belongs to, and what happens to a row that is no plain row of numbers.

The short way is the point of this module: a tuple of the keys, a look-up, one struct packed into the memory map.
Everything else takes the careful way, which starts from the beginning.
"""

import operator
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pulsetrain._run import values
from pulsetrain._run.definitions import Definition, Definitions
from pulsetrain._run.errors import InvalidData, UsageError
from pulsetrain._run.faults import Faults
from pulsetrain.journal.writer import JournalFull, JournalWriter, RecordTooLarge

# How many kinds of rows are remembered for their step metrics.
MAX_STEP_PLANS = 1_000
INT64 = range(-(1 << 63), 1 << 63)


class History:
    """The rows and events of a run, for all threads of one process; a forked child gets a journal of its own."""

    def __init__(
        self,
        open_writer: Callable[[bool], JournalWriter],
        faults: Faults,
        *,
        run_id: str = "",
        step: int = 0,
        first_step: int = 0,
        on_back: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`open_writer(forked)` gives a journal that has its start record; it is asked again later should it fail.

        `step` is that of the first row unless that says another. Where it says one before `first_step`, at which the
        attempt was said to begin, the attempt begins there: that is written down, and `on_back` is told.
        """
        self.step = step
        self.dropped = 0
        """Rows that did not get into the journal, because there was no room for them."""
        self.finished = False
        self.directory: Path | None = None
        """Where this process's journal is; None as long as there is none."""
        self.sequence = 0
        """The last record's, once the history is closed."""
        self.faults = faults
        self._run_id = run_id
        self._open_writer = open_writer
        self._clock = clock
        self._lock = threading.RLock()
        self._forked = False
        self._first_step = first_step
        self._on_back = on_back
        self._writer: JournalWriter | None = None
        # The same, as soon as the first row is there: up to then every row takes the careful way.
        self._begun: JournalWriter | None = None
        self._definitions = Definitions()
        self._synchronising = False
        self._step_values: dict[str, float] = {}
        # By the keys of a row: the step metrics among them, and those that are to be added.
        self._step_plans: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}

    def open(self) -> bool:
        """Begins the journal now. False where that is not possible yet; that is noted."""
        try:
            with self._lock:
                self._ready()
            return True
        except OSError as error:
            self.faults.note("open", f"the journal cannot be written: {error}. It is tried again with every log()")
        return False

    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        """Appends one row to the journal, see Run.log."""
        try:
            keys = tuple(data)
            with self._lock:
                if self._begun is None:
                    pass
                elif self._synchronising:
                    at = self.step if step is None else operator.index(step)
                    self._row_with_steps(self._begun, keys, data, at)
                    self._advance(at, (commit is None and step is None) or commit)
                    return
                elif step is None:
                    self._begun.row(keys, data.values(), self.step, self._clock())
                    if commit is None or commit:
                        self.step += 1
                    return
                elif type(step) is int:
                    self._begun.row(keys, data.values(), step, self._clock())
                    self._advance(step, commit)
                    return
        except Exception:  # noqa: BLE001, S110 - anything: the careful way finds out what, and what to do about it
            pass
        self._log_carefully(data, step, commit)

    def define(self, definition: Definition, *, overwrite: bool) -> Definition:
        """Holds it, and writes it down."""
        with self._lock:
            result = self._definitions.add(definition, overwrite=overwrite)
            self._synchronising = self._definitions.synchronising
            self._step_plans.clear()
            # All that holds of the name now: who reads this record alone knows as much.
            self.event("define_metric", result.to_event(overwrite=True))
            return result

    def carry(self, definitions: Iterable[Mapping[str, Any]], values: Mapping[str, Any]) -> None:
        """Goes on with what was said about metrics before, and with their last values."""
        for data in definitions:
            definition = self.define(Definition.of_event(data), overwrite=False)
            value = values.get(definition.step_metric or "")
            if definition.step_metric is not None and isinstance(value, int | float):
                self._step_values[definition.step_metric] = float(value)

    def event(self, kind: str, data: Mapping[str, Any], *, last: bool = False) -> bool:
        """Appends an event. False where it could not be written; that is noted, and never raised."""
        try:
            with self._lock:
                if self.finished:
                    return False
                self._ready().event(kind, data, last=last)
                return True
        except JournalFull as error:
            self._note_full(error)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with our files must not end the training
            self.faults.note(f"event {kind}", f"a {kind} could not be written: {error!r}")
        return False

    def close(self, kind: str, data: Mapping[str, Any]) -> None:
        """Writes the last event and closes the journal. What is logged afterwards is misuse."""
        with self._lock:
            if self.finished:
                return
            self.event(kind, data, last=True)
            self.finished = True
            writer, self._writer, self._begun = self._writer, None, None
        if writer is not None:
            self.sequence = writer.sequence
            try:
                writer.close()
            except OSError as error:
                self.faults.note("close", f"the journal could not be closed: {error}")

    def forsake(self) -> None:
        """In a forked child: the journal is the parent's. The next row opens one of this process's own."""
        self._lock = threading.RLock()
        self._forked = True
        self.dropped = 0
        self.directory = None
        writer, self._writer, self._begun = self._writer, None, None
        if writer is not None:
            writer.forsake()

    def _advance(self, step: int, commit: bool | None) -> None:
        if step > self.step:
            self.step = step
        if commit:
            self.step += 1

    def _ready(self) -> JournalWriter:
        if self._writer is None:
            self._writer = self._open_writer(self._forked)
            self.directory = self._writer.directory
        return self._writer

    def _log_carefully(self, data: Mapping[str, Any], step: int | None, commit: bool | None) -> None:
        if not isinstance(data, Mapping):
            raise InvalidData(f"log() takes a dictionary, not {type(data).__name__}")
        if not all(isinstance(key, str) for key in data):
            wrong = next(key for key in data if not isinstance(key, str))
            raise InvalidData(f"the keys that log() takes are text; {wrong!r} is {type(wrong).__name__}")
        if self.finished:
            raise UsageError(f"run {self._run_id} has finished; call init() again, then log")
        with self._lock:
            at = self.step if step is None else self._checked_step(step)
            try:
                self._write_row(data, at)
            except JournalFull as error:
                self.dropped += 1
                self._note_full(error)
            except RecordTooLarge as error:
                self.dropped += 1
                self.faults.note("large", f"a row was not logged: {error}")
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the training
                self.dropped += 1
                self.faults.note("row", f"a row could not be logged: {error!r}")
            self._advance(at, (commit is None and step is None) or commit)

    def _note_full(self, error: JournalFull) -> None:
        why = f"there is no room for the journal: {error.strerror}"
        self.faults.note("full", f"{why}. What is logged is lost until there is")

    def _begin(self, writer: JournalWriter, step: int) -> None:
        """Before the first row. A forked child's says nothing of where the attempt begins."""
        if step < self._first_step and not self._forked:
            writer.event("update", {"first_step": step})
            self._first_step = step
            self._on_back(step)
        self._begun = writer

    def _write_row(self, data: Mapping[str, Any], step: int) -> None:
        writer = self._ready()
        if self._begun is None:
            self._begin(writer, step)
        numbers, texts = values.split(data)
        for key, text in texts.items():
            if text.startswith(values.TRUNCATED):
                limit = f"{values.MAX_TEXT_CHARACTERS:,} characters"
                self.faults.note("truncated", f"the text of {key!r} has more than {limit}: its beginning alone is kept")
        if self._synchronising:
            self._synchronise(numbers, texts)
        now = self._clock()
        if texts:
            writer.text_row(numbers, texts, step, now)
        else:
            writer.row(tuple(numbers), numbers.values(), step, now)

    def _row_with_steps(self, writer: JournalWriter, keys: tuple[str, ...], data: Mapping[str, Any], step: int) -> None:
        """A plain row of numbers, with the step metrics that it lacks."""
        plan = self._step_plans.get(keys)
        if plan is None:
            if len(self._step_plans) >= MAX_STEP_PLANS:
                self._step_plans.clear()
            plan = self._step_plans[keys] = self._step_metrics_of(keys)
        present, missing = plan
        row: Iterable[Any] = data.values()
        known = [name for name in missing if name in self._step_values]
        if known:
            keys = (*keys, *known)
            row = [*row, *[self._step_values[name] for name in known]]
        writer.row(keys, row, step, self._clock())
        for name in present:
            self._step_values[name] = float(data[name])

    def _step_metrics_of(self, keys: Iterable[str]) -> tuple[list[str], list[str]]:
        """The step metrics that these metrics are defined over: those that are among them, and those that are not."""
        keys = tuple(keys)
        definitions = (self._definitions.find(name) for name in keys)
        wanted = dict.fromkeys(found.step_metric for found in definitions if found is not None and found.synchronises)
        names = [name for name in wanted if name is not None]
        return [name for name in names if name in keys], [name for name in names if name not in keys]

    def _synchronise(self, numbers: dict[str, float], texts: Mapping[str, str]) -> None:
        """Adds the last value of each step metric that the row's metrics are defined over and the row lacks."""
        present, missing = self._step_metrics_of((*numbers, *texts))
        for name in present:
            if name in numbers:
                self._step_values[name] = numbers[name]
        for name in missing:
            if name in self._step_values:
                numbers[name] = self._step_values[name]

    def _checked_step(self, step: Any) -> int:
        try:
            found = operator.index(step)
        except TypeError:
            number = values.number(step)
            found = int(number) if number is not None and number.is_integer() else INT64.stop
        if found not in INT64:
            self.faults.note("step", f"step {values.to_json(step)[:80]} is no whole number; the current step was taken")
            return self.step
        return found


class NoHistory:
    """Takes everything and keeps nothing but the step: a disabled run."""

    dropped = 0
    directory = None
    sequence = 0

    def __init__(self) -> None:
        self.step = 0
        self.finished = False
        self.faults = Faults(lambda _: None)

    def open(self) -> bool:
        return True

    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> None:  # noqa: ARG002
        """Counts the step."""
        if isinstance(step, int):
            self.step = max(self.step, step)
        if commit or (commit is None and step is None):
            self.step += 1

    def define(self, definition: Definition, *, overwrite: bool) -> Definition:  # noqa: ARG002
        return definition

    def event(self, kind: str, data: Mapping[str, Any], *, last: bool = False) -> bool:  # noqa: ARG002
        return True

    def close(self, kind: str, data: Mapping[str, Any]) -> None:  # noqa: ARG002
        self.finished = True

    def forsake(self) -> None:
        """There is nothing to let go of."""
