"""One finding for trouble that several GPUs, ranks or hosts have at once."""

from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.findings import Finding, Severity


@dataclass(slots=True)
class Member:
    """A GPU, a rank or a host: where it is, whether it is in trouble, and in whose name that was said."""

    host: str = field(init=False, default="")
    gpu: str = field(init=False, default="")
    rank: int | None = field(init=False, default=None)
    bad: bool = field(init=False, default=False)
    time: float = field(init=False, default=0.0)
    value: float | None = field(init=False, default=None)
    detail: str = field(init=False, default="")
    spoken: str | None = field(init=False, default=None)


@dataclass(slots=True)
class Affected:
    """Gathers who is in trouble for `gather` seconds, then speaks of each, of a host, or of the whole run.

    Of a host where `crowd` of its members and half of them are in trouble; of the run where that is so of three hosts
    or of all that there are. Who joins later is covered by what was said. Over when all that a finding covers are well.
    """

    kind: str
    noun: str
    severity: Severity = Severity.WARNING
    gather: float = 10.0
    crowd: int = 3
    members: dict[str, Member] = field(init=False, default_factory=dict, metadata={"of": Member})
    since: float | None = field(init=False, default=None)
    spoken: dict[str, float] = field(init=False, default_factory=dict)
    troubled: int = field(init=False, default=0)

    def mark(
        self,
        name: str,
        bad: bool,
        time: float,
        detail: str = "",
        value: float | None = None,
        host: str = "",
        gpu: str = "",
        rank: int | None = None,
    ) -> None:
        """Says how it stands with a member at a time (that of the evidence)."""
        member = self.members.get(name)
        if member is None:
            member = self.members[name] = Member()
        member.host, member.gpu, member.rank = host, gpu, rank
        if bad == member.bad:
            return
        member.bad, member.time = bad, time
        self.troubled += 1 if bad else -1
        if bad:
            member.detail, member.value = detail, value

    def meet(self, name: str, host: str) -> None:
        """Says that there is a member, which is well: hosts and runs are judged by how many they have."""
        if name not in self.members:
            member = self.members[name] = Member()
            member.host = host

    def quiet(self) -> bool:
        """Whether `tick` has nothing to do."""
        return not self.troubled and not self.spoken

    def bad(self) -> list[str]:
        """The members in trouble."""
        return [name for name, member in self.members.items() if member.bad] if self.troubled else []

    def tick(self, now: float) -> list[Finding]:
        """What there is to say at a time (one clock, of the monitor)."""
        if self.quiet():
            return []
        return [*self._over(), *self._begun(now)]

    def _over(self) -> list[Finding]:
        found = []
        for subject in list(self.spoken):
            covered = [member for member in self.members.values() if member.spoken == subject]
            if any(member.bad for member in covered):
                continue
            del self.spoken[subject]
            for member in covered:
                member.spoken = None
            last = max(covered, key=lambda member: member.time, default=Member())
            what = subject or "the run"
            found.append(self._finding(subject, False, f"{what}: over ({self.kind})", last, len(covered)))
        return found

    def _begun(self, now: float) -> list[Finding]:
        new = {name: member for name, member in self.members.items() if member.bad and member.spoken is None}
        for member in new.values():
            for subject in ("", member.host):
                if subject in self.spoken:
                    member.spoken = subject
                    break
        new = {name: member for name, member in new.items() if member.spoken is None}
        if not new:
            self.since = None
            return []
        if self.since is None or now < self.since:
            self.since = now
        if now - self.since < self.gather:
            return []
        self.since = None
        hosts: dict[str, list[str]] = {}
        for name, member in new.items():
            hosts.setdefault(member.host, []).append(name)
        crowded = {host for host, names in hosts.items() if host and self._crowd(host, names)}
        everywhere = {member.host for member in self.members.values()}
        many = len(hosts) >= 3 or (len(hosts) == len(everywhere) > 1 and len(new) > 2)
        if many and (crowded == set(hosts) or 2 * len(new) >= len(self.members)):
            return [self._speak("", list(new))]
        found = []
        for host, names in hosts.items():
            if host in crowded:
                found.append(self._speak(host, names))
            else:
                found += [self._speak(name, [name]) for name in names]
        return found

    def _crowd(self, host: str, names: list[str]) -> bool:
        there = sum(member.host == host for member in self.members.values())
        return len(names) >= self.crowd and 2 * len(names) >= there

    def _speak(self, subject: str, names: list[str]) -> Finding:
        for name in names:
            self.members[name].spoken = subject
        first = self.members[names[0]]
        self.spoken[subject] = first.time
        if len(names) == 1 and (subject or not first.detail):
            text = first.detail
        else:
            where = f" of {subject}" if subject else ""
            text = f"{len(names)} {self.noun}s{where}, first: {first.detail}"
        return self._finding(subject, True, text, first, len(names))

    def _finding(self, subject: str, present: bool, message: str, member: Member, count: int) -> Finding:
        alone = count == 1
        return Finding(
            self.kind,
            subject,
            present,
            self.severity,
            message,
            member.time,
            None,
            member.value if alone else float(count),
            member.rank if alone else None,
            member.host if subject else "",
            member.gpu if alone else "",
        )
