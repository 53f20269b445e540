"""GPUs that MIG has divided into instances."""

from tests.fake_gpus import GIB, Instance, Process, a100, h100
from tests.nvidia_machine import made_up
from tests.waiting import wait_for

AA, BB = "GPU-aaaa-1", "GPU-bbbb-2"


def divided():
    instances = [
        Instance("MIG-1111", 3, processes=[Process(10, 4 * GIB)]),
        Instance("MIG-2222", 5),
    ]
    return made_up(h100(AA), a100(BB, instances))


def test_an_instance_of_mig_is_a_device_of_its_own():
    with divided() as machine:
        sample = machine.of("MIG-1111", 0.0)
        assert sample == {
            "memory_used_bytes": 5 * GIB,
            "memory_total_bytes": 20 * GIB,
            "memory_percent": 25.0,
        }
        assert "gpu/1/MIG-2222/memory_used_bytes" in machine.at(1.0)
        assert "utilization_percent" not in machine.of(BB, 2.0)
        assert machine.of(BB, 3.0)["power_watts"] == 312.5
        assert machine.source.processes["MIG-1111"][10].memory_bytes == 4 * GIB
        assert [device.parent for device in machine.source.devices] == [None, None, BB, BB]


def test_an_instance_of_a_hopper_has_its_utilisation_by_gpm():
    with divided() as machine:
        gpu = machine.library.gpus[1]
        gpu.gpm, gpu.gpm_values = True, {1: 95.0, 2: 88.0}
        machine.at(0.0)
        sample = machine.of("MIG-1111", 1.0)
        assert sample["utilization_percent"] == 95.0
        assert sample["sm_active_percent"] == 88.0


def test_instances_that_come_and_go_are_noticed():
    with divided() as machine:
        gpu = machine.library.gpus[1]
        assert machine.seen(0.0) == {AA, BB, "MIG-1111", "MIG-2222"}
        gpu.instances[0].removed = True
        gpu.instances.append(Instance("MIG-3333", 7, parent=gpu))
        machine.at(31.0)
        assert machine.seen(32.0) == {AA, BB, "MIG-2222", "MIG-3333"}


def test_an_xid_error_of_an_instance_is_its_own_and_the_gpus():
    with divided() as machine:
        machine.at(0.0)
        machine.library.xid(BB, 13, gpu_instance=3)
        wait_for(lambda: "xid_errors" in machine.of("MIG-1111", 1.0), what="the error")
        assert "xid_errors" in machine.of(BB, 1.0)
        assert "xid_errors" not in machine.of("MIG-2222", 1.0)
