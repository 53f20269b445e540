"""What `pulsetrain up` shows: lines that stay, and a bar where a terminal watches a download."""

import sys
import threading
import time

import click

_MEBIBYTE = 1 << 20
_LINE_EVERY = 3.0


class DownloadProgress:
    """Shows an installation: a bar on a terminal, else a line every few seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._terminal = sys.stderr.isatty()
        self._what = ""
        self._total = 0
        self._received = 0
        self._shown = 0.0
        self._bar: object | None = None

    def waiting(self, why: str) -> None:
        self._finish_bar()
        click.echo(f"  {why}", err=True)

    def downloading(self, what: str, total: int) -> None:
        self._what, self._total, self._received = what, total, 0
        self._shown = time.monotonic()
        if not self._terminal:
            click.echo(f"  downloading {what}, {total / _MEBIBYTE:.0f} MiB", err=True)

    def downloaded(self, received: int) -> None:
        with self._lock:
            self._received += received
            now = time.monotonic()
            if self._terminal and now - self._shown > 0.1:
                self._shown = now
                self._draw()
            elif not self._terminal and now - self._shown > _LINE_EVERY:
                self._shown = now
                click.echo(f"    {self._share():.0%} of {self._total / _MEBIBYTE:.0f} MiB", err=True)

    def preparing(self, what: str) -> None:
        self._finish_bar()
        click.echo(f"  {what}", err=True)

    def _share(self) -> float:
        return min(1.0, self._received / self._total) if self._total else 1.0

    def _draw(self) -> None:
        width = 30
        done = round(self._share() * width)
        bar = click.style("━" * done, fg="green") + click.style("━" * (width - done), dim=True)
        click.echo(
            f"\r  {self._what}  {bar}  {self._received / _MEBIBYTE:.1f} of {self._total / _MEBIBYTE:.0f} MiB ",
            nl=False,
            err=True,
        )

    def _finish_bar(self) -> None:
        if self._terminal and self._what:
            self._received = max(self._received, self._total)
            self._draw()
            click.echo("", err=True)
        self._what = ""


class StartProgress:
    """Shows a stack that comes up: a line for each part as it gets ready, with its seconds."""

    def __init__(self) -> None:
        self.ready_seconds: float | None = None

    def starting(self, name: str) -> None:
        """A start is shown when it has succeeded: most take about a second."""

    def ready(self, name: str, took: float, address: str | None) -> None:
        mark = click.style("✓", fg="green") if _can_encode("✓") else "ok"
        where = f"  {address}" if address else ""
        click.echo(f"  {mark} {name:<11}{took:5.1f} s{where}", err=True)

    def ended(self, name: str, exit_code: int | None, log: str) -> None:
        click.echo(
            click.style(f"  ! {name} ended with exit code {exit_code}; starting it again ({log})", fg="yellow"),
            err=True,
        )

    def all_ready(self, seconds: float) -> None:
        self.ready_seconds = seconds

    def stopping(self) -> None:
        click.echo("stopping…" if _can_encode("…") else "stopping", err=True)


def _can_encode(text: str) -> bool:
    try:
        text.encode(sys.stderr.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
