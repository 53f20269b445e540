"""`pulsetrain.Api`: runs, their history at full resolution, SQL and the loss account, from Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from pulsetrain_consumers.reading import lineage, resuming
from pulsetrain_consumers.reading import runs as reading
from pulsetrain_consumers.reading.database import Database, Result, locate
from pulsetrain_consumers.reading.history import History, history
from pulsetrain_consumers.reading.model import Attempt, ConsoleLine, RunRecord, WriterAccount
from pulsetrain_consumers.reading.selection import conditions, select
from pulsetrain_consumers.reading.system_history import system_history


class Run:
    """One run as it was when it was read; its fields are those of `record`."""

    def __init__(self, database: Database, record: RunRecord) -> None:
        self._database = database
        self.record = record

    @property
    def project(self) -> str:
        """The project."""
        return self.record.project

    @property
    def id(self) -> str:
        """The run's id, unique in its project."""
        return self.record.run_id

    @property
    def name(self) -> str:
        """The name that a person gave, or else the id."""
        return self.record.label

    @property
    def state(self) -> str:
        """running, finished, failed, crashed or killed."""
        return self.record.state

    @property
    def config(self) -> dict[str, Any]:
        """What the run was started with."""
        return dict(self.record.config)

    @property
    def summary(self) -> dict[str, Any]:
        """What the run came to."""
        return dict(self.record.summary)

    @property
    def tags(self) -> list[str]:
        """The run's tags."""
        return list(self.record.tags)

    @property
    def notes(self) -> str:
        """What a person wrote about it."""
        return self.record.notes

    @property
    def group(self) -> str:
        """The group of runs that it belongs to."""
        return self.record.group

    @property
    def job_type(self) -> str:
        """What kind of work it does in its group."""
        return self.record.job_type

    @property
    def attempt(self) -> int:
        """How often it was resumed."""
        return self.record.attempt

    @property
    def last_step(self) -> int | None:
        """The greatest step that the run shows, of numbers and of texts; None where there is none."""
        return lineage.last_steps(self._database, [self.record.key]).get(self.record.key)

    @property
    def parent(self) -> tuple[str, int] | None:
        """Of a fork, the run that it was forked from and the last step that it has from there."""
        run_id, step = self.record.parent_run_id, self.record.parent_step
        return None if run_id is None or step is None else (run_id, step)

    def attempts(self) -> list[Attempt]:
        """What the run shows: of which attempts of which runs which steps; its own attempts last, in order."""
        return lineage.attempts(self._database, [self.record.key]).get(self.record.key, [])

    def history(
        self,
        keys: Sequence[str] | None = None,
        samples: int | None = None,
        *,
        stream: str = "default",
        all_attempts: bool = False,
    ) -> History:
        """The run's metrics as columns, every point of them; with `samples`, at most so many rows of means.

        `run.history(["loss"]).to_pandas()` is a DataFrame. Where a resumed run went back to an earlier step, the latest
        attempt counts, and a fork begins with its parent's points; with `all_attempts`, all that the run logged itself
        counts, and nothing else. With stream="system" it is the hardware, by time and not by step, under W&B's keys
        (`system.gpu.0.gpu`) where it has one.
        """
        if stream in ("system", "events"):
            return system_history(self._database, self.record.key, keys, samples)
        return history(self._database, self.record.key, keys, samples, all_attempts=all_attempts)

    def console(self, lines: int = 1_000) -> list[ConsoleLine]:
        """The last lines that the run printed."""
        return reading.console_tail(self._database, [self.record.key], lines).get(self.record.key, [])

    def account(self) -> list[WriterAccount]:
        """What each of the run's writers produced and what of it is stored."""
        return reading.accounts(self._database, self.project, [self.id])

    def __repr__(self) -> str:
        return f"Run({self.project}/{self.id}, {self.name!r}, {self.state})"


class Api:
    """The read side of Pulsetrain. Belongs to one thread; connects when first asked.

    Raises `UserError`s: NotReachable, UnknownRun, AmbiguousRun, QueryError.
    """

    def __init__(self, url: str | None = None) -> None:
        """`url` is `clickhouse://user:password@host:port/database`; else PULSETRAIN_CLICKHOUSE or the local stack."""
        self.database = Database(locate(url))

    def runs(
        self, project: str | None = None, filters: Mapping[str, Any] | None = None, order: str | None = None
    ) -> list[Run]:
        """The runs of a project (or all), newest first.

        `filters` as in W&B: `{"state": "finished", "config.lr": {"$gte": 0.01}}`. `order` is a field, `config.KEY` or
        `summary.KEY`, with `-` before it for the highest first.
        """
        records = reading.list_runs(self.database, project)
        return self._wrap(select(records, conditions(filters or {}), order))

    def run(self, path: str) -> Run:
        """The run that `project/run_id`, an id or a name means."""
        return Run(self.database, reading.find_run(self.database, path))

    def projects(self) -> list[str]:
        """Every project that has a run."""
        return reading.projects(self.database)

    def attempts(self, project: str, run_id: str) -> Mapping[str, Any] | None:
        """For the SDK that resumes a run: its attempts as plain values, see `resuming.attempts`."""
        return resuming.attempts(self.database, (project, run_id))

    def state_of(
        self, project: str, run_id: str, *, rank: int = 0, below: int | None = None
    ) -> Mapping[str, Any] | None:
        """For the SDK that resumes a run: what it had come to, see `resuming.state_of`."""
        return resuming.state_of(self.database, (project, run_id), rank, below)

    def sql(self, query: str, params: Mapping[str, Any] | None = None) -> Result:
        """All rows of a query. Parameters are written `{name:Type}`; their values cannot break out of the query."""
        return self.database.query(query, **(params or {}))

    def account(self, project: str | None = None, run_ids: Iterable[str] | None = None) -> list[WriterAccount]:
        """What each writer produced and what of it is stored."""
        return reading.accounts(self.database, project, None if run_ids is None else list(run_ids))

    def close(self) -> None:
        """Ends the connections."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wrap(self, records: Iterable[RunRecord]) -> list[Run]:
        return [Run(self.database, record) for record in records]
