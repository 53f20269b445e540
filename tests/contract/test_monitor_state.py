"""What the monitor relies on of the store of its state, held over ClickHouse and the one in memory."""

from collections.abc import Callable, Iterator

import pytest

from pulsetrain_consumers.clickhouse import connect
from pulsetrain_consumers.monitor.state import ClickHouseState, MemoryState, StateStore
from pulsetrain_consumers.runtime.sink import StoreUnavailable
from pulsetrain_schemas.addresses import ClickHouseAddress
from tests.clickhouse_fixture import ClickHouse
from tests.reading_rows import create_database

Group = Callable[[str], StateStore]


@pytest.fixture(params=["memory", pytest.param("clickhouse", marks=pytest.mark.clickhouse)])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    """Makes the state of a new monitor of the group of a name."""
    if request.param == "memory":
        tables: dict[str, dict[str, tuple[int, str]]] = {}
        yield lambda name: MemoryState(tables.setdefault(name, {}))
        return
    server: ClickHouse = request.getfixturevalue("clickhouse_server")
    address = ClickHouseAddress(server.host, server.port, server.user, server.password, "monitor_state_contract")
    create_database(address)
    with connect(address) as client:
        yield lambda name: ClickHouseState(client, name)


def test_what_is_saved_last_is_loaded(group: Group) -> None:
    state = group("g")
    assert state.load() == {}
    state.save({"a": "1", "b": "2", "p/한국어": '{"x": "\\ud800\\n"}'})
    state.save({"a": "3"})
    state.save({})
    assert state.load() == group("g").load() == {"a": "3", "b": "2", "p/한국어": '{"x": "\\ud800\\n"}'}


def test_an_empty_text_removes_a_part(group: Group) -> None:
    state = group("g")
    state.load()
    state.save({"a": "1", "b": "2"})
    state.save({"a": ""})
    assert state.load() == {"b": "2"}


def test_groups_have_states_of_their_own(group: Group) -> None:
    one, other = group("g"), group("h")
    one.load()
    other.load()
    one.save({"a": "1"})
    other.save({"a": "2"})
    assert (one.load(), other.load()) == ({"a": "1"}, {"a": "2"})


def test_what_a_monitor_saves_that_has_lost_its_place_does_not_count(group: Group) -> None:
    frozen = group("g")
    frozen.load()
    for count in range(20):
        frozen.save({"a": f"frozen {count}", "b": "frozen"})
    later = group("g")
    assert later.load() == {"a": "frozen 19", "b": "frozen"}
    later.save({"a": "later"})
    frozen.save({"a": "frozen", "b": "still frozen"})
    assert group("g").load() == {"a": "later", "b": "still frozen"}


def test_a_store_in_memory_can_be_away() -> None:
    state = MemoryState()
    state.away = True
    for act in (state.load, lambda: state.save({"a": "1"})):
        with pytest.raises(StoreUnavailable):
            act()
