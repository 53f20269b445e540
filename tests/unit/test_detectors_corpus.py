"""A small part of the corpus: every kind of finding once, and what looks like one. The whole is `python -m
tests.corpus`."""

import re
from pathlib import Path

import pytest

from tests.corpus.evaluation import heard, judge, wrong
from tests.corpus.generator import FAULTS, HEALTHY, case, cases

# Jobs of 64 ranks take a second each; the one that hangs stands for them.
FAULTY = [kind for kind in FAULTS if "64" not in kind and "host" not in kind]
FAULTY += ["hung_rank_of_64", "host_out_of_memory"]
WELL = [kind for kind in HEALTHY if "64" not in kind]
SEED = 1


def test_the_corpus_has_twenty_kinds_of_faults_and_is_half_healthy() -> None:
    made = cases(1000, 5000)
    assert len({kind for kind, _ in made if kind in FAULTS}) >= 20
    assert sum(kind in HEALTHY for kind, _ in made) == 500
    assert len({seed for _, seed in made}) == 1000


def test_a_case_is_the_same_for_the_same_seed() -> None:
    one, two = case("loss_spike", 7), case("loss_spike", 7)
    assert one.label == two.label
    assert [time for time, _ in one.events] == [time for time, _ in two.events]
    assert [time for time, _ in one.events] != [time for time, _ in case("loss_spike", 8).events]


def test_every_kind_of_finding_has_a_case_here_but_what_a_process_tells_itself() -> None:
    found = {fault: case(fault, SEED).label.kinds for fault in FAULTS}
    kinds = {kind for of_fault in found.values() for kind in of_fault}
    assert {kind for fault in FAULTY for kind in found[fault]} == kinds
    documented = re.findall(
        r"^\| `(\w+)` \|", (Path(__file__).parents[2] / "docs/monitoring.md").read_text(), re.MULTILINE
    )
    assert kinds | {"loader_stall"} == set(documented)


@pytest.mark.parametrize("kind", FAULTY)
def test_a_fault_is_found_and_nothing_else_is_said(kind: str) -> None:
    made = case(kind, SEED)
    assert wrong([judge(made, heard(made))]) == ""


@pytest.mark.parametrize("kind", WELL)
def test_nothing_is_said_of_a_healthy_job(kind: str) -> None:
    made = case(kind, SEED)
    assert wrong([judge(made, heard(made))]) == ""
