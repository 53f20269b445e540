"""Conditions that must hold for a while, and be gone for a while, before they count."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Lasting:
    """True once a condition held for `begin` seconds, false again once it did not hold for `end` seconds."""

    begin: float = 30.0
    end: float = 60.0
    present: bool = field(init=False, default=False)
    since: float | None = field(init=False, default=None)

    def observe(self, time: float, condition: bool | None) -> bool:
        """Takes the condition at a time; None says that it is neither clearly so nor clearly not."""
        if condition is None:
            if not self.present:
                self.since = None
            return self.present
        if condition == self.present:
            self.since = None
        elif self.since is None or time < self.since:
            self.since = time
        if self.since is not None and time - self.since >= (self.end if self.present else self.begin):
            self.present, self.since = condition, None
        return self.present
