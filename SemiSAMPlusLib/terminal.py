"""What a terminal shows of a job while it works: a bar with the latest figures, or plain lines where it is no terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .run import events as kinds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.progress import Progress as RichProgress

#: Seconds between two plain lines that say nothing but how far it is.
_PLAIN_SECONDS = 15.0
#: Columns where output goes to a file or a pipe.
_PLAIN_WIDTH = 120


def make_console() -> Console:
    """Return a console for standard output; lines that go to a file or a pipe are wide.

    Where the reader of a pipe has gone, as ``tee`` does at the Ctrl-C that asks a training to stop gracefully, it says
    nothing more, and the job goes on.
    """
    from rich.console import Console

    class Unheard(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            drop_output()

    console = Unheard(highlight=False, soft_wrap=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Unheard(highlight=False, width=_PLAIN_WIDTH)
    return console


def drop_output() -> None:
    """Lead standard output nowhere, since nobody reads it: else Python stumbles over it once more as it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class Progress:
    """Shows the events of a job as they come; call it with each.

    Attributes:
        reason: Why the job ended, ``done`` or ``stopped``, or None before it did.
        iteration: How far it came.

    Args:
        console: Where to show them.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.reason: str | None = None
        self.iteration = 0
        self._iterations = 0
        self._seconds_left: float | None = None
        self._case = ""
        self._figures: dict[str, dict[str, float | None]] = {}
        self._told = -1e9
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self.console, refresh_per_second=4, get_renderable=self._render)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event of a job; see :mod:`SemiSAMPlusLib.run.events`."""
        kind = event["event"]
        if kind == kinds.STARTED:
            self.reason, self.iteration, self._figures, self._seconds_left = None, 0, {}, None
            self._iterations, self._case = int(event.get("iterations") or 0), ""
        elif kind == kinds.PROGRESS:
            self.iteration, self._iterations = int(event["iteration"]), int(event["iterations"])
            self._seconds_left, self._case = event.get("seconds_left"), str(event.get("case", ""))
            self._figures["losses"] = dict(event.get("losses") or {})
            self._tell()
        elif kind == kinds.METRICS:
            on = {"validation": "Dice, held out", "labeled": "Dice, labelled"}.get(str(event.get("on")), "Dice")
            self._figures[on] = dict(event.get("dice") or {})
            self._tell(always=True)
        elif kind == kinds.TRUST:
            self._figures["trust"] = dict(event.get("trust") or {})
        elif kind == kinds.MESSAGE:
            self.say(str(event.get("text", "")))
        elif kind == kinds.WARNING:
            self.say(f"Warning: {event.get('text', '')}", style="yellow")
        elif kind == kinds.FINISHED:
            self.reason, self.iteration = str(event.get("reason")), int(event.get("iteration") or self.iteration)
            self._seconds_left = None

    def say(self, text: str, *, style: str | None = None) -> None:
        """Show a line that stays."""
        self.console.print(text, style=style, markup=False, soft_wrap=self._live is None)

    def _tell(self, *, always: bool = False) -> None:
        """Say in a plain line how far it is; a terminal shows it by itself."""
        if self._live is not None:
            return
        now, last = time.monotonic(), self.iteration == self._iterations
        if always or last or self._case or now - self._told >= _PLAIN_SECONDS:
            self._told = now
            parts = [self._count(), *self._texts()]
            self.console.print(" | ".join(part for part in parts if part), markup=False, soft_wrap=True)

    def _count(self) -> str:
        return f"{'case' if self._case else 'iteration'} {self.iteration}/{self._iterations}"

    def _texts(self) -> list[str]:
        texts = [self._case] if self._case else []
        texts += [_figures_text(name, values) for name, values in self._figures.items() if values]
        if self._seconds_left:
            texts.append(f"{kinds.duration(self._seconds_left)} left")
        return texts

    def _render(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if not self._iterations:
            return Text("Getting ready …", style="dim")
        row = Table.grid(padding=(0, 1))
        left = "" if self._seconds_left is None else f"{kinds.duration(self._seconds_left)} left"
        bar = ProgressBar(total=self._iterations, completed=self.iteration, width=40)
        row.add_row(self._count(), bar, Text(left, style="cyan"))
        whole = Table.grid()
        whole.add_row(row)
        if self._case:
            whole.add_row(Text(self._case, style="dim"))
        for name, values in self._figures.items():
            if values:
                whole.add_row(Text(_figures_text(name, values), style="dim" if name == "losses" else ""))
        return whole


class TransferProgress:
    """Shows the events of a download as they come; call it with each.

    Args:
        console: Where to show them.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: RichProgress | None = None
        self._told = time.monotonic()

    def __enter__(self) -> TransferProgress:
        if self.console.is_terminal:
            from rich import progress as rich_progress

            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}"),
                rich_progress.BarColumn(),
                rich_progress.DownloadColumn(),
                rich_progress.TextColumn("{task.fields[speed]}"),
                rich_progress.TextColumn("{task.fields[left]}", style="cyan"),
                console=self.console,
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to a question."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event of a download; see :mod:`SemiSAMPlusLib.run.events`."""
        kind = event["event"]
        if kind == kinds.PROGRESS:
            self._show(event)
        elif kind == kinds.MESSAGE:
            self.console.print(str(event.get("text", "")), markup=False, soft_wrap=self._bar is None)
        elif kind == kinds.WARNING:
            text = f"Warning: {event.get('text', '')}"
            self.console.print(text, style="yellow", markup=False, soft_wrap=self._bar is None)

    def _show(self, event: dict[str, Any]) -> None:
        done, total, speed, left = (event.get(key) for key in ("bytes", "bytes_total", "speed", "seconds_left"))
        rate = f"{byte_text(speed)}/s" if speed else ""
        rest = "" if left is None else f"{kinds.duration(left)} left"
        if self._bar is not None:
            if not self._bar.tasks:
                self._bar.add_task("", total=total, speed="", left="")
            task = self._bar.tasks[0].id
            name = str(event.get("file", "")).rpartition("/")[2]
            self._bar.update(task, description=name, completed=done or 0, total=total, speed=rate, left=rest)
        elif time.monotonic() - self._told >= _PLAIN_SECONDS:
            self._told = time.monotonic()
            count = byte_text(done or 0) + (f" of {byte_text(total)}" if total else "")
            self.console.print(" | ".join(part for part in (count, rate, rest) if part), markup=False, soft_wrap=True)


def byte_text(size: float) -> str:
    """Return a size as a reader wants it: ``402 MB``."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size = round(size / 1000)
    return f"{size:.0f} GB"


def _figures_text(name: str, values: dict[str, float | None]) -> str:
    return f"{name}: " + ", ".join(f"{key} {'–' if value is None else f'{value:.3f}'}" for key, value in values.items())
