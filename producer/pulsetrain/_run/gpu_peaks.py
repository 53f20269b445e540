"""What GPUs can do at most: FLOP/s by model and number format, dense, as their makers' data sheets say.

Data sheets often print the figure with 2:4 sparsity, which training does not use; it is halved here. Tensor cores
(matrix cores) count where a format has them, with accumulation in float32, as training does it. A GPU that is not in
the table has no peak: a guess would make an MFU that looks right. Laptop models, MIG slices and models for single
markets have less than their name says, and are not in it.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Gpu(NamedTuple):
    """One model: its name as the driver says it, without the maker's; FLOP/s by format; where the figures are from."""

    name: re.Pattern[str]
    flops: Mapping[str, float]
    source: str


def _gpu(name: str, source: str, **teraflops: float) -> Gpu:
    flops = {dtype: value * 1e12 for dtype, value in teraflops.items()}
    return Gpu(re.compile(name, re.IGNORECASE), MappingProxyType(flops), source)


_HGX = "NVIDIA HGX platform, specifications of HGX B300 and HGX B200, an eighth of the eight GPUs' figures"
_NVL72 = "NVIDIA GB200 NVL72 and GB300 NVL72 data sheets, a 72nd of the rack's figures"
_H100 = "NVIDIA H100 Tensor Core GPU data sheet (SXM, NVL); the PCIe card: its product brief and earlier data sheet"
_H200 = "NVIDIA H200 Tensor Core GPU data sheet"
_GA102 = "NVIDIA Ampere GA102 GPU architecture white paper"
_ADA = "NVIDIA Ada GPU architecture white paper"
_RTX50 = "NVIDIA RTX Blackwell GPU architecture white paper"
_V100 = "NVIDIA V100 Tensor Core GPU data sheet"
_CDNA = "AMD Instinct MI250X, MI300X, MI325X and MI355X data sheets"

GPUS: tuple[Gpu, ...] = (
    _gpu("GB300.*", _NVL72, tfloat32=1250, float16=2500, bfloat16=2500, float8=5000),
    _gpu("GB200.*", _NVL72, float64=40, float32=80, tfloat32=1250, float16=2500, bfloat16=2500, float8=5000),
    _gpu("B300.*", _HGX, float64=1.25, float32=75, tfloat32=1125, float16=2250, bfloat16=2250, float8=4500),
    _gpu("B200.*", _HGX, float64=37, float32=75, tfloat32=1125, float16=2250, bfloat16=2250, float8=4500),
    _gpu("GH200.*", "NVIDIA GH200 Grace Hopper Superchip data sheet",
         float64=67, float32=67, tfloat32=494.5, float16=989.5, bfloat16=989.5, float8=1979),
    _gpu("H200 NVL", _H200, float64=60, float32=60, tfloat32=417.5, float16=835.5, bfloat16=835.5, float8=1670.5),
    _gpu("H200( 141GB HBM3e)?", _H200,
         float64=67, float32=67, tfloat32=494.5, float16=989.5, bfloat16=989.5, float8=1979),
    _gpu("H100 NVL", _H100, float64=60, float32=60, tfloat32=417.5, float16=835.5, bfloat16=835.5, float8=1670.5),
    _gpu("H100 (PCIe|80GB HBM2e)", _H100,
         float64=51, float32=51, tfloat32=378, float16=756.5, bfloat16=756.5, float8=1513),
    _gpu("H100 .*HBM3", _H100, float64=67, float32=67, tfloat32=494.5, float16=989.5, bfloat16=989.5, float8=1979),
    _gpu("A100[- ](SXM4|PCIE|80GB PCIe).*", "NVIDIA A100 Tensor Core GPU data sheet",
         float64=19.5, float32=19.5, tfloat32=156, float16=312, bfloat16=312),
    _gpu("A30", "NVIDIA A30 Tensor Core GPU data sheet",
         float64=10.3, float32=10.3, tfloat32=82, float16=165, bfloat16=165),
    _gpu("A40", "NVIDIA A40 data sheet", float32=37.4, tfloat32=74.8, float16=149.7, bfloat16=149.7),
    _gpu("A10", "NVIDIA A10 data sheet", float32=31.2, tfloat32=62.5, float16=125, bfloat16=125),
    _gpu("A10G", "NVIDIA A10G data sheet (AWS G5)", float32=35, tfloat32=35, float16=70, bfloat16=70),
    _gpu("L40S", "NVIDIA L40S data sheet", float32=91.6, tfloat32=183, float16=362.05, bfloat16=362.05, float8=733),
    _gpu("L40", "NVIDIA L40 data sheet", float32=90.5, tfloat32=90.5, float16=181.05, bfloat16=181.05, float8=362),
    _gpu("L4", "NVIDIA L4 data sheet", float32=30.3, tfloat32=60, float16=121, bfloat16=121, float8=242.5),
    _gpu("RTX A6000", _GA102, float32=38.7, tfloat32=77.4, float16=154.8, bfloat16=154.8),
    _gpu("GeForce RTX 5090", _RTX50, float32=104.8, tfloat32=104.8, float16=209.5, bfloat16=209.5, float8=419),
    _gpu("GeForce RTX 5080", _RTX50, float32=56.3, tfloat32=56.3, float16=112.6, bfloat16=112.6, float8=225.1),
    _gpu("GeForce RTX 4090", _ADA, float32=82.6, tfloat32=82.6, float16=165.2, bfloat16=165.2, float8=330.3),
    _gpu("GeForce RTX 4080", _ADA, float32=48.7, tfloat32=48.7, float16=97.5, bfloat16=97.5, float8=194.9),
    _gpu("GeForce RTX 3090", _GA102, float32=35.6, tfloat32=35.6, float16=71, bfloat16=71),
    _gpu("GeForce RTX 3080", _GA102, float32=29.8, tfloat32=29.8, float16=59.5, bfloat16=59.5),
    _gpu("T4", "NVIDIA T4 data sheet", float32=8.1, float16=65),
    _gpu("V100-SXM[23].*", _V100, float64=7.8, float32=15.7, float16=125),
    _gpu("V100-PCIE.*", _V100, float64=7, float32=14, float16=112),
    _gpu("V100S-PCIE.*", _V100, float64=8.2, float32=16.4, float16=130),
    _gpu("Instinct MI355X.*", _CDNA, float16=2500, bfloat16=2500, float8=5000),
    _gpu("Instinct MI3(00|25)X.*", _CDNA,
         float64=163.4, float32=163.4, tfloat32=653.7, float16=1307.4, bfloat16=1307.4, float8=2614.9),
    # One of the two dies that the driver shows as GPUs of their own.
    _gpu("Instinct MI250X.*", _CDNA, float64=47.85, float32=47.85, float16=191.5, bfloat16=191.5),
)  # fmt: skip

_MAKERS = re.compile(r"^(NVIDIA|Tesla|AMD)\s+", re.IGNORECASE)
_LESS = re.compile(r"\bMIG\b|\bLaptop\b|\bMax-Q\b", re.IGNORECASE)
# Training in float8 keeps its formats apart (e4m3fn, e5m2, …); a peak is that of all.
_DTYPES = {"half": "float16", "float": "float32", "double": "float64", "fp16": "float16", "bf16": "bfloat16",
           "fp32": "float32", "tf32": "tfloat32", "fp64": "float64", "fp8": "float8"}  # fmt: skip


def dtype_name(dtype: object) -> str:
    """The table's name of a format: of torch.bfloat16, "torch.bfloat16", "bf16" or "bfloat16" it is bfloat16."""
    name = str(dtype).rpartition(".")[2].lower()
    return "float8" if name.startswith("float8") else _DTYPES.get(name, name)


def peak_flops(name: str, dtype: str) -> float | None:
    """FLOP/s of a GPU at most, dense, by the driver's name of it and a format's name; None where that is not known."""
    if _LESS.search(name):
        return None
    model = name.strip()
    while (shorter := _MAKERS.sub("", model)) != model:
        model = shorter
    for gpu in GPUS:
        if gpu.name.fullmatch(model):
            return gpu.flops.get(dtype_name(dtype))
    return None
