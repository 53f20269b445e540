"""Whether a service is alive, and whether it can do its work; if not, why."""

from pulsetrain_consumers.runtime.broker import Clock


class Health:
    """Told by the loop, asked by the HTTP server on another thread."""

    def __init__(self, clock: Clock, patience: float = 30.0) -> None:
        self._clock = clock
        self._patience = patience
        self._ticked = clock.monotonic()
        self._problems: dict[str, str] = {"start": "starting"}

    def tick(self) -> None:
        """The loop has come round."""
        self._ticked = self._clock.monotonic()

    def problem(self, part: str, text: str | None) -> bool:
        """Says what is wrong with a part, or (None) that it works; whether that is news."""
        before = self._problems
        after = {name: what for name, what in before.items() if name != part}
        if text is not None:
            after[part] = text
        self._problems = after
        return (part in before) != (part in after)

    def alive(self) -> tuple[bool, str]:
        """Whether the loop has come round lately, and a line about it."""
        silent = self._clock.monotonic() - self._ticked
        return silent < self._patience, f"the loop came round {silent:.1f} s ago"

    def ready(self) -> tuple[bool, str]:
        """Whether everything works, and a line about what does not."""
        problems = self._problems
        return not problems, "; ".join(f"{part}: {text}" for part, text in problems.items()) or "ready"
