"""Sessions over HTTP: one request at a time, closed when nobody asks for them in time."""

import pytest

from pulsetrain_local.clickhouse.engine import EngineError
from pulsetrain_local.clickhouse.http_sessions import MOST_SESSIONS, HttpSessions


class Engine:
    closed = False

    def close(self) -> None:
        self.closed = True


class Sessions:
    """Sessions whose clock a test moves, with the engine's sessions that they made."""

    def __init__(self) -> None:
        self.now = 0.0
        self.made: list[Engine] = []
        self.sessions = HttpSessions(lambda: self.now)

    def ask(self, name: str, user: str = "a", seconds: float = 60, must_exist: bool = False):
        def connect() -> Engine:
            self.made.append(Engine())
            return self.made[-1]

        return self.sessions.session(user, name, seconds, must_exist=must_exist, connect=connect)


def test_the_same_session_is_given_until_its_time_is_over() -> None:
    known = Sessions()
    with known.ask("one") as first:
        pass
    known.now = 59
    with known.ask("one", must_exist=True) as again:
        assert again is first
    known.now = 59 + 61
    with pytest.raises(EngineError, match="SESSION_NOT_FOUND"), known.ask("one", must_exist=True):
        pass
    assert first.closed


def test_two_users_share_no_session() -> None:
    known = Sessions()
    with known.ask("one", "a") as mine, known.ask("one", "b") as theirs:
        assert mine is not theirs


def test_a_session_in_use_is_locked_and_never_closed_under_its_user() -> None:
    known = Sessions()
    with known.ask("one", seconds=1) as engine:
        known.now = 100
        with pytest.raises(EngineError, match="SESSION_IS_LOCKED"), known.ask("one"):
            pass
        assert not engine.closed


def test_there_is_an_end_to_how_many_are_kept() -> None:
    known = Sessions()
    for number in range(MOST_SESSIONS):
        with known.ask(str(number)):
            pass
    with pytest.raises(EngineError, match="TOO_MANY"), known.ask("another"):
        pass
    known.now = 61
    with known.ask("another"):
        pass
    assert sum(engine.closed for engine in known.made) == MOST_SESSIONS
