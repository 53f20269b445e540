"""The blocks of an INSERT while they arrive: held back until the last one, so that a client that dies leaves nothing.

The engine stores a long INSERT in parts as it goes; what was stored stays when the rest never comes. So nothing is
handed over before the end is here. Up to a bound the blocks stay in memory, beyond it they go to a temporary file.
What remains is as in any ClickHouse: an INSERT of more than a million rows that the engine itself fails to finish may
leave a part.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

READ_BACK = 8 << 20


class HeldBlocks:
    """Blocks in order. A context manager: on leaving, all that was held is gone."""

    def __init__(self, directory: Path, in_memory: int) -> None:
        """`directory` takes the temporary file; `in_memory` bytes are kept without one."""
        self._directory = directory
        self._in_memory = in_memory
        self._blocks: list[bytes] = []
        self._size = 0
        self._file: BinaryIO | None = None

    def add(self, block: bytes) -> None:
        """Holds one more block."""
        self._blocks.append(block)
        self._size += len(block)
        if self._size > self._in_memory:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
        for block in self._blocks:
            self._write(memoryview(block))
        self._blocks.clear()
        self._size = 0

    def _write(self, block: memoryview) -> None:
        assert self._file is not None
        while block:
            block = block[self._file.write(block) :]

    def pieces(self) -> Iterator[bytes]:
        """All that was held, in order, in pieces of a bounded size or a block each."""
        if self._file is not None:
            self._file.seek(0)
            while piece := self._file.read(READ_BACK):
                yield piece
        yield from self._blocks

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blocks.clear()
        if self._file is not None:
            self._file.close()
