"""How a run begins: as which attempt of which run, at which step, and with what of what was before."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pulsetrain._run import environment, names
from pulsetrain._run.errors import UsageError
from pulsetrain._run.faults import Faults
from pulsetrain._settings import RunSettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pulsetrain._run.attempts import Known
    from pulsetrain._run.carrying import State


@dataclass(frozen=True, slots=True)
class Beginning:
    """What was decided."""

    run_id: str
    attempt: int = 0
    first_step: int = 0
    """Where the attempt begins."""
    step: int = 0
    """What this process begins with: it may join an attempt, and never begins before that."""
    resumed: bool = False
    state: "State | None" = None
    """What it goes on from; None where it begins anew."""
    parent: tuple[str, int] | None = None
    """The run that it is a fork of, and the last step that it has from there."""
    inherited: Sequence[Mapping[str, Any]] = ()
    before: "Past | None" = None
    """The attempts before this one, for when its first row goes back further."""

    def start(self) -> dict[str, Any]:
        """What the start record says of it."""
        told: dict[str, Any] = {"attempt": self.attempt, "first_step": self.first_step}
        if self.parent is not None:
            told |= {"parent_run_id": self.parent[0], "parent_step": self.parent[1], "inherited": list(self.inherited)}
        return told


@dataclass(slots=True)
class Past:
    """A run's attempts up to one, and how to find out what they had come to at a step."""

    settings: RunSettings
    known: "Known"
    faults: Faults
    env: Mapping[str, str]
    before: int = field(default=1 << 62)
    """Only attempts with a lower number count."""
    asks: bool = True
    """Whether the read side is there to be asked: one that was away a moment ago is not waited for again."""

    def state(self, below: int | None) -> "State":
        """What the attempts had come to; with `below`, without rows from that step on."""
        from pulsetrain._run import carrying
        from pulsetrain._run.read_side import ReadSide

        rank = self.settings.rank
        firsts = {attempt: first for attempt, first in self.known.first_steps.items() if attempt < self.before}
        fitting = [attempt for attempt, first in firsts.items() if below is None or first <= below]
        local, is_whole = None, False
        if fitting:
            taking = [member for member in self.known.members if member.attempt == max(fitting)]
            chosen = [member for member in taking if member.is_here]
            chosen.sort(key=lambda member: (member.rank, not member.primary, member.start["attempt_started"]))
            local = carrying.by_journals(chosen, rank, below) if chosen else None
            is_whole = len(chosen) == len(taking)
        here = {member.rank for member in self.known.members if member.is_here}
        if (
            local is not None
            and is_whole
            and local.has_primary
            and local.has_rank
            and here >= {one.rank for one in self.known.elsewhere}
        ):
            return local
        told = None
        if self.asks:
            told = ReadSide(self.settings.project, self.known.run_id, self.faults, self.env).state(rank, below)
        if local is None and told is None and not fitting:
            return self._before_all()
        return carrying.best(local, told)

    def _before_all(self) -> "State":
        """Where a fork goes back into what it inherited, and nobody tells what that came to: config and names alone."""
        from pulsetrain._run import carrying

        first = min((member.attempt for member in self.known.members if member.is_here), default=None)
        members = [member for member in self.known.members if member.is_here and member.attempt == first]
        found = carrying.by_journals(members, self.settings.rank, None) or carrying.State()
        return carrying.State(found.config, found.definitions, start=found.start, rules=found.rules)


def decide(settings: RunSettings, faults: Faults, env: Mapping[str, str] = os.environ) -> Beginning:
    """UsageError where what is wished for cannot be: no such run, or one that must not be there."""
    if settings.fork is not None:
        return _fork(settings, settings.fork, faults, env)
    if settings.run_id is None and settings.resume != "auto":
        if settings.resume == "must":
            raise UsageError('resume="must" needs the id of the run: init(id=…), or PULSETRAIN_RUN_ID')
        return Beginning(names.new_run_id())
    if settings.resume is None and settings.rewind is None:
        return _anew(settings, env)
    return _resumed(settings, faults, env)


def _anew(settings: RunSettings, env: Mapping[str, str]) -> Beginning:
    """Without resume the run starts over, unless this process joins one that has just begun."""
    from pulsetrain._run import attempts

    run_id = str(settings.run_id)
    known = attempts.by_journals(settings.directory, settings.project, run_id)
    if known is None:
        return Beginning(run_id)
    if _joins(settings, known, env):
        first = known.first_steps[known.attempt]
        return Beginning(run_id, known.attempt, first, first)
    return Beginning(run_id, known.attempt + 1)


def _fork(settings: RunSettings, fork: tuple[str, int], faults: Faults, env: Mapping[str, str]) -> Beginning:
    from pulsetrain._run import attempts

    parent, step = fork
    if settings.run_id == parent:
        raise UsageError(f"fork_from: run {parent!r} cannot be a fork of itself; to go back in it, use resume_from")
    origin, problem = _find(settings, parent, faults, env)
    if origin is None:
        raise UsageError(f"fork_from: {_unknown(settings, parent, problem)}")
    run_id = settings.run_id or names.new_run_id()
    own = attempts.by_journals(settings.directory, settings.project, run_id)
    attempt = 0 if own is None else own.attempt + (not _joins(settings, own, env))
    past = Past(settings, origin, faults, env, asks=not problem)
    return Beginning(
        run_id,
        attempt,
        step + 1,
        step + 1,
        state=past.state(step + 1),
        parent=fork,
        inherited=origin.visible(step + 1),
        before=past,
    )


def _resumed(settings: RunSettings, faults: Faults, env: Mapping[str, str]) -> Beginning:
    known, problem = _find(settings, settings.run_id, faults, env)
    if known is None:
        if settings.resume == "must" or settings.rewind is not None:
            raise UsageError(f'{_unknown(settings, settings.run_id, problem)}; to start it, use resume="allow"')
        return Beginning(settings.run_id or names.new_run_id())
    joins = _joins(settings, known, env)
    if settings.resume == "never" and not (joins and known.attempt == 0):
        raise UsageError(
            f'run {known.run_id!r} of project {settings.project!r} is there already, and resume is "never"; '
            'give another id, or resume="allow" to go on with it'
        )
    if joins:
        first = known.first_steps[known.attempt]
        if known.attempt == 0:
            return Beginning(known.run_id, 0, first, first)
        past = Past(settings, known, faults, env, before=known.attempt, asks=not problem)
        ranks = {one.rank for one in known.latest} | {one.rank for one in known.elsewhere}
        state = past.state(first)
        if settings.rank in ranks:
            state.operations = {}  # the process of this rank that came first has them
        return Beginning(known.run_id, known.attempt, first, first, True, state, before=past)
    past = Past(settings, known, faults, env, before=known.attempt + 1, asks=not problem)
    state = past.state(None if settings.rewind is None else settings.rewind[1] + 1)
    if settings.rewind is not None:
        step = settings.rewind[1] + 1
    else:
        step = max(state.next_step or 0, known.next_step, known.first_steps[known.attempt])
    return Beginning(known.run_id, known.attempt + 1, step, step, True, state, before=past)


def _find(
    settings: RunSettings, run_id: str | None, faults: Faults, env: Mapping[str, str]
) -> "tuple[Known | None, str]":
    """The run, and why the read side could not be asked. Without an id, the run that is to be gone on with."""
    from pulsetrain._run import attempts
    from pulsetrain._run.read_side import ReadSide

    if run_id is None:
        known = attempts.last_started(settings.directory, settings.project)
        if known is None or known.exit_code == 0:
            return None, ""
        if known.is_running:
            # Another run of this machine, unless it is this very launch that began it.
            launch = environment.launch(env)
            mine = launch is not None and launch in {member.launch for member in known.latest}
            return (known if mine and _joins(settings, known, env) else None), ""
        return known, ""
    read_side = ReadSide(settings.project, run_id, faults, env)
    local = attempts.by_journals(settings.directory, settings.project, run_id)
    return attempts.both(local, read_side.known()), read_side.problem


def _joins(settings: RunSettings, known: "Known", env: Mapping[str, str]) -> bool:
    return known.takes(settings.rank, environment.launch(env), environment.ancestors(), shares=settings.shares)


def _unknown(settings: RunSettings, run_id: str | None, problem: str) -> str:
    where = f"neither in {settings.directory} nor by the read side"
    return f"no run {run_id!r} of project {settings.project!r} is known, {where}" + (f" ({problem})" if problem else "")
