"""XID errors, as the driver's events tell them."""

import pytest

from tests.fake_gpus import a100, h100
from tests.nvidia_machine import made_up
from tests.waiting import wait_for

AA, BB = "GPU-aaaa-1", "GPU-bbbb-2"


@pytest.fixture
def machine():
    with made_up(h100(AA), a100(BB)) as made:
        yield made


def test_an_xid_error_is_said_and_counted_and_is_in_no_sample_before(machine):
    assert "xid_errors" not in machine.of(AA, 0.0)
    machine.library.xid(AA, 79)
    wait_for(lambda: "xid_errors" in machine.of(AA, 1.0), what="the error")
    machine.library.xid(AA, 31)
    wait_for(lambda: machine.of(AA, 2.0)["xid_errors"] == 2.0, what="the second error")
    assert machine.of(AA, 3.0)["xid_last"] == 31.0
    assert "xid_errors" not in machine.of(BB, 4.0)
    assert [line for line in machine.said if "XID" in line] == [
        f"GPU {AA} reports XID 79",
        f"GPU {AA} reports XID 31",
    ]


def test_xid_errors_are_counted_on_over_a_restart_of_the_driver(machine):
    machine.at(0.0)
    machine.library.xid(AA, 48)
    wait_for(lambda: "xid_errors" in machine.of(AA, 1.0), what="the error")
    machine.library.stop_driver()
    machine.at(2.0)
    machine.library.start_driver()
    assert machine.of(AA, 10.0)["xid_errors"] == 1.0
    machine.library.xid(AA, 48)
    wait_for(lambda: machine.of(AA, 11.0)["xid_errors"] == 2.0, what="the second error")
