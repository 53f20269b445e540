"""The journals of hardware samples: which GPUs a run sees, how often it is sampled, what its processes have."""

import os
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest

from pulsetrain.forwarder.liveness import created
from pulsetrain.forwarder.packing import system_batches
from pulsetrain.forwarder.tail import read_identity
from pulsetrain.forwarder.telemetry import Telemetry, uses_of
from pulsetrain.hardware.nvidia_gpu import Use
from pulsetrain.journal.reader import JournalReader, RowBlock
from tests.fake_gpus import GIB, Instance, Process, a100, h100
from tests.fake_nvml import FakeNvml, installed
from tests.journals import points_logged, records, start_run
from tests.waiting import wait_for

OWN = (os.getpid(), created(os.getpid()))


@contextmanager
def training(**env):
    """A process that may be a run's."""
    command = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
    given = {**os.environ, **env}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=given) as process:
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def machine():
    library = FakeNvml(h100("GPU-aa"), a100("GPU-bb", [Instance("MIG-11", 3), Instance("MIG-22", 5)]))
    with installed(library) as nvml:
        yield library, lambda: nvml.nvmlInit() or nvml
        library.stop_driver()


class Attached:
    """Telemetry with one run attached to it."""

    def __init__(self, folder, nvml, period=0.02, **start):
        self.folder = folder
        self.journals = []
        self.telemetry = Telemetry(
            lambda writer, journal: self.journals.append(journal),
            psutil=psutil,
            disk=folder,
            nvml=nvml,
            amdsmi=lambda: None,
            period=period,
        )
        self.run = start_run(folder, **start)
        self.identity = read_identity(self.run.directory)

    def __enter__(self):
        self.telemetry.attach(self.identity, self.folder, self.run_pid, "box", OWN)
        return self

    def __exit__(self, *exception):
        self.telemetry.stop()
        self.run.close()

    @property
    def run_pid(self):
        return self.identity.pid

    def points(self):
        return points_logged(self.journals[0])

    def devices(self):
        return {point[2].split("/")[2] for point in self.points() if point[2].startswith("gpu/")}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("0", {"GPU-aa"}),
        ("1", {"GPU-bb", "MIG-11", "MIG-22"}),
        ("MIG-22", {"MIG-22"}),
        ("GPU-aa,MIG-11", {"GPU-aa", "MIG-11"}),
    ],
)
def test_a_run_sees_the_devices_that_its_process_may_use(tmp_path, machine, setting, expected):
    with (
        training(CUDA_VISIBLE_DEVICES=setting) as process,
        Attached(tmp_path, machine[1], pid=process.pid) as attached,
    ):
        wait_for(lambda: attached.devices() >= expected, what="samples of all devices")
        wait_for(lambda: len({point[0] for point in attached.points()}) > 10, what="further samples")
        assert attached.devices() == expected


def test_what_its_processes_have_of_a_gpu_belongs_to_a_run(tmp_path, machine):
    library, nvml = machine
    with training() as process, training() as stranger:
        library.gpus[0].processes = [Process(process.pid, 3 * GIB, 40), Process(stranger.pid, 9 * GIB, 60)]
        with Attached(tmp_path, nvml, pid=process.pid) as attached:

            def found():
                return {key: value for _, _, key, value in attached.points() if key.endswith("/process_memory_bytes")}

            wait_for(found, what="the memory of its processes")
            assert found() == {"gpu/0/GPU-aa/process_memory_bytes": 3 * GIB}
            busy = {value for _, _, key, value in attached.points() if key.endswith("/process_utilization_percent")}
            assert busy == {40.0}


def test_of_several_processes_of_a_run_the_uses_are_added_up():
    uses = {1: Use(100.0, 10.0), 2: Use(50.0), 3: Use(None, 5.0), 9: Use(999.0, 99.0)}
    assert uses_of(uses, {1, 2, 3}) == {"process_memory_bytes": 150.0, "process_utilization_percent": 15.0}
    assert uses_of(uses, {4}) == {}


def test_each_sample_knows_its_host_gpu_run_and_rank(tmp_path, machine):
    with training() as process, Attached(tmp_path, machine[1], pid=process.pid, rank=3) as attached:
        wait_for(lambda: attached.devices() >= {"GPU-bb", "MIG-11"}, what="GPU samples")
        identity = read_identity(attached.journals[0])
        with JournalReader(attached.journals[0]) as reader:
            rows = [item for item in reader if isinstance(item, RowBlock)]
    batch = next(iter(system_batches(identity, 1, rows)))
    assert batch.host == "box"
    assert (batch.origin.run_id, batch.origin.rank) == ("r1", 3)
    series = set(zip(batch.series_metrics, batch.series_gpus, batch.series_gpu_indexes.tolist(), strict=True))
    assert ("power_watts", "GPU-bb", 1) in series
    assert ("memory_percent", "MIG-11", 1) in series
    assert ("memory_percent", "", -1) in series


class Sampled(Telemetry):
    """Whose samples come when told to."""

    def _start_sampler(self):
        pass


@pytest.fixture
def sampled(tmp_path):
    journals = []
    telemetry = Sampled(lambda writer, journal: journals.append(journal), psutil=psutil, disk=tmp_path)
    telemetry.journals = journals
    yield telemetry
    telemetry.stop()


def attach(telemetry, folder, run_id, **start):
    run = start_run(folder / run_id, run_id=run_id, writer=run_id * 16, **start)
    telemetry.attach(read_identity(run.directory), folder / run_id, OWN[0], "box", OWN)
    run.close()
    return telemetry.journals[-1]


def rows(journal):
    return len({point[0] for point in points_logged(journal)})


def test_a_run_has_a_row_as_often_as_it_wished_and_no_figure_between_is_lost(sampled, tmp_path):
    fast = attach(sampled, tmp_path, "r1", sampling_seconds=0.1)
    slow = attach(sampled, tmp_path, "r2", sampling_seconds=2.0)
    plain = attach(sampled, tmp_path, "r3")
    sampled._period = 0.1  # what the sampler ticks at; a run without a wish keeps to a second
    sampled._runs["p", "r3"].periods = {"w": 1.0}
    for tick in range(100):
        sampled._deliver(
            1000 + tick / 10, {"host": {"cpu_percent": float(tick)} | ({"seldom": 1.0} if tick == 7 else {})}
        )
    assert (rows(fast), rows(slow), rows(plain)) == (100, 5, 10)
    for journal in (fast, slow, plain):
        assert [value for _, _, key, value in points_logged(journal) if key == "seldom"] == [1.0]
        assert len(records(journal, "heartbeat")) == 1


def test_a_clock_that_is_set_back_does_not_stop_the_samples(sampled, tmp_path):
    journal = attach(sampled, tmp_path, "r1", sampling_seconds=1.0)
    for at in (1000.0, 1001.0, 500.0, 501.0):
        sampled._deliver(at, {"host": {"cpu_percent": 1.0}})
    assert rows(journal) == 4


def test_the_sampler_ticks_as_often_as_the_run_that_wants_the_most(tmp_path):
    telemetry = Telemetry(lambda *_: None, psutil=psutil, disk=tmp_path, nvml=lambda: None, amdsmi=lambda: None)
    identities = []
    for number, seconds in enumerate((None, 0.001, 3600.0)):
        run = start_run(tmp_path / str(number), run_id=f"r{number}", writer=f"{number}" * 32, sampling_seconds=seconds)
        identities.append(read_identity(run.directory))
        run.close()
    paces = []
    for identity in identities:
        telemetry.attach(identity, tmp_path / identity.run_id, OWN[0], "box", OWN)
        paces.append(telemetry._sampler.period)
    for identity in identities:
        telemetry.detach(identity)
        paces.append(telemetry._sampler.period)
    telemetry.stop()
    assert paces == [1.0, 0.1, 0.1, 0.1, 10.0, 1.0]  # at least every ten seconds, for the heartbeat
