"""CUDA_VISIBLE_DEVICES, read as CUDA reads it."""

import pytest

from pulsetrain.hardware.visible_devices import Device, visible

GPUS = (Device(0, "GPU-aa"), Device(1, "GPU-bb"), Device(2, "GPU-cc"))
INSTANCES = (Device(1, "MIG-1111", "GPU-bb", (3, 0)), Device(1, "MIG-1222", "GPU-bb", (5, 0)))
A, B, C, M1, M2 = "GPU-aa", "GPU-bb", "GPU-cc", "MIG-1111", "MIG-1222"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, {A, B, C}),
        ("", set()),
        ("-1", set()),
        ("NoDevFiles", set()),
        ("1", {B}),
        ("2,0", {A, C}),
        ("0,7,1", {A}),
        ("GPU-b", {B}),
        ("GPU-aa, GPU-cc", {A, C}),
        ("GPU-", set()),
        ("MIG-1234", set()),
    ],
)
def test_gpus_are_named_by_number_or_by_the_beginning_of_a_uuid(setting, expected):
    assert visible(setting, GPUS) == expected


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, {A, B, C, M1, M2}),
        ("0", {A}),
        ("1", {B, M1, M2}),
        ("MIG-1111", {M1}),
        ("MIG-1222,MIG-1111", {M1, M2}),
        ("MIG-1", set()),
        ("MIG-GPU-bb/5/0", {M2}),
        ("MIG-GPU-bb/6/0", set()),
        ("GPU-aa,MIG-1111", {A, M1}),
    ],
)
def test_an_instance_of_mig_comes_alone_and_a_gpu_with_its_instances(setting, expected):
    assert visible(setting, GPUS + INSTANCES) == expected
