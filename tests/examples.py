"""How long property tests search: `PULSETRAIN_EXAMPLES=100 pytest tests/property` takes a hundred times the examples.

`--hypothesis-seed=…` repeats a search.
"""

import os
from typing import Any

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("PULSETRAIN_EXAMPLES", "1"))


def examples(count: int) -> Any:
    """Settings of a property test: `count` examples, or as many times that as were asked for; no deadline for each."""
    return settings(
        max_examples=count * FACTOR, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
