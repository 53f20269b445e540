"""What every test has: a home and a run directory of its own, and an environment that names nothing of the user's."""

import os
from pathlib import Path

import pytest
