"""The read side, asked about a run: what is stored of it, wherever it was logged. It need not be installed or there."""

import os
from collections.abc import Mapping
from typing import Any

from pulsetrain._run.attempts import Elsewhere, Known
from pulsetrain._run.carrying import State, by_read_side
from pulsetrain._run.faults import Faults
from pulsetrain_schemas import addresses


class ReadSide:
    """Asks about one run. What fails is noted, and is as if nothing were known."""

    def __init__(self, project: str, run_id: str, faults: Faults, env: Mapping[str, str] = os.environ) -> None:
        self._project = project
        self._run_id = run_id
        self._faults = faults
        self._env = env
        self.problem = ""
        """Why it could not be asked; empty where it answered."""

    def known(self) -> Known | None:
        """The run's attempts; None where no such run is stored."""
        told = self._ask("attempts")
        if told is None:
            return None
        return Known(
            self._run_id,
            told["first_steps"],
            elsewhere=[Elsewhere(one["rank"], one["launch"]) for one in told["members"]],
            is_heard=told["is_heard"],
            inherited=told["inherited"],
            next_step=told["next_step"],
        )

    def state(self, rank: int, below: int | None) -> State | None:
        """What the run had come to below that step, for a process of that rank."""
        told = self._ask("state_of", rank=rank, below=below)
        return None if told is None else by_read_side(told)

    def _ask(self, question: str, **arguments: Any) -> Any:
        from importlib.metadata import entry_points

        points = entry_points(group="pulsetrain.api", name="Api")
        try:
            if not points or addresses.clickhouse(self._env) is None:
                self.problem = "there is no address of ClickHouse" if points else "the read side is not installed"
                return None
            self.problem = ""
            with next(iter(points)).load()() as api:
                return getattr(api, question)(self._project, self._run_id, **arguments)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it must not end the training
            self.problem = str(error)
            self._faults.note("read side", f"the read side could not be asked about run {self._run_id}: {error}")
        return None
