"""Registering and starting: what a training process does about the forwarder."""

import os
import subprocess
import sys
from pathlib import Path

from pulsetrain.forwarder import spawn
from pulsetrain.forwarder.liveness import created
from pulsetrain.forwarder.places import LOCAL, Place, Registration, destination, read_json
from pulsetrain.forwarder.process import locked


def test_the_destination_is_local_or_a_name_made_from_the_servers():
    assert destination({}) == LOCAL
    one = destination({"PULSETRAIN_KAFKA": "a:1,b:2"})
    assert one == destination({"PULSETRAIN_KAFKA": "b:2, a:1"})
    assert one != destination({"PULSETRAIN_KAFKA": "a:1"})


def test_a_registration_names_the_journal_and_the_process(tmp_path: Path):
    spawn.register(tmp_path, "w1", tmp_path / "run" / "w1", {})
    place = Place.of(tmp_path, LOCAL)
    ((writer, registration),) = place.registrations()
    assert writer == "w1"
    assert registration == Registration(str(tmp_path / "run" / "w1"), os.getpid(), created(os.getpid()))
    place.unregister("w1")
    place.unregister("w1")
    assert list(place.registrations()) == []


def test_a_registration_that_is_not_understood_is_passed_over(tmp_path: Path):
    place = Place.of(tmp_path, LOCAL)
    place.create()
    (place.writers / "x.json").write_text('{"journal": 1')
    (place.writers / "y.json").write_text('{"version": 9}')
    assert list(place.registrations()) == []


def test_one_forwarder_at_a_time_holds_the_lock(tmp_path: Path):
    place = Place.of(tmp_path, LOCAL)
    assert not spawn.is_running(place)
    place.create()
    with locked(place) as ours:
        assert ours
        assert spawn.is_running(place)
        with locked(place) as twice:
            assert not twice
        assert not spawn.ensure_running(tmp_path, {})
    assert not spawn.is_running(place)


def test_what_a_training_process_imports_of_it_is_light():
    code = (
        "import sys\nbefore = set(sys.modules)\nimport pulsetrain.forwarder.spawn, pulsetrain.forwarder.places\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new & {'numpy', 'kafka', 'psutil', 'fastavro', 'subprocess', 'hashlib', 'click'}))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "[]"


def test_half_a_file_reads_as_none(tmp_path: Path):
    (tmp_path / "f.json").write_text('{"a": ')
    assert read_json(tmp_path / "f.json") is None
    assert read_json(tmp_path / "none.json") is None
