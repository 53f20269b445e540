"""The blocks of an INSERT while they arrive: held back until the last one, so that a client that dies leaves nothing.

The engine stores a long INSERT in parts as it goes; what was stored stays when the rest never comes. So nothing is
handed over before the end is here. Up to a bound the blocks stay in memory, beyond it they go to a temporary file;
the engine reads either as a file. What remains is as in any ClickHouse: an INSERT of more than a million rows that the
engine itself fails to finish may leave a part.
"""

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self


class HeldBlocks:
    """Blocks in order. A context manager: on leaving, all that was held is gone."""

    def __init__(self, directory: Path, in_memory: int) -> None:
        """`directory` takes the temporary file; `in_memory` bytes are kept without one."""
        self._directory = directory
        self._in_memory = in_memory
        self._blocks: list[bytes] = []
        self._size = 0
        self._file: BinaryIO | None = None
        self._name = ""

    @property
    def empty(self) -> bool:
        """Whether no block was held."""
        return self._file is None and not self._blocks

    def add(self, block: bytes) -> None:
        """Holds one more block."""
        self._blocks.append(block)
        self._size += len(block)
        if self._size > self._in_memory:
            if self._file is None:
                self._open_on_disk()
            self._flush()

    def path(self) -> str:
        """A file of this process with all that was held, in format Native. It is there until the context is left."""
        if self._file is None:
            if hasattr(os, "memfd_create"):
                descriptor = os.memfd_create("insert")
                self._file, self._name = os.fdopen(descriptor, "wb", buffering=0), f"/proc/self/fd/{descriptor}"
            else:
                self._open_on_disk()
        self._flush()
        return self._name

    def _open_on_disk(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        file = tempfile.NamedTemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
        self._file, self._name = file, file.name  # type: ignore[assignment]  # a wrapper that writes like the file

    def _flush(self) -> None:
        assert self._file is not None
        for block in self._blocks:
            rest = memoryview(block)
            while rest:
                rest = rest[self._file.write(rest) :]
        self._blocks.clear()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blocks.clear()
        if self._file is not None:
            self._file.close()
