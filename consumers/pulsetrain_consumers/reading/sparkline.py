"""Curves as one line of text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCKS = "▁▂▃▄▅▆▇█"
ODD = "×"


def sparkline(values: NDArray[np.float64], width: int = 40) -> str:
    """At most `width` blocks, each as high as the mean of its share of the values; × where none of these is finite."""
    if not len(values):
        return ""
    parts = np.array_split(values, min(width, len(values)))
    means = np.array([part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan for part in parts])
    finite = means[np.isfinite(means)]
    if not len(finite):
        return ODD * len(parts)
    low, extent = float(finite.min()), float(np.ptp(finite))
    return "".join(
        ODD if np.isnan(mean) else BLOCKS[round((mean - low) / extent * (len(BLOCKS) - 1)) if extent > 0 else 0]
        for mean in means
    )
