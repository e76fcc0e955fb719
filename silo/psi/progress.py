"""How far an intersection is, for the operator: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from silo.meeting import Progress as Stand

SECONDS = 10.0
"""Between two plain lines about work that goes on."""


class Progress:
    """Shows it.

    Args:
        console: where to.
        clock: seconds.

    Guarantees:
        Without a terminal there are no control sequences.
        It shows numbers of points and bytes, names and states, and nothing of the data.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._next = clock() + SECONDS
        self._points = 0
        self._state = ""
        self._moved = ""
        self._bar: Bar | None = None
        if console.is_terminal:
            columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
            self._bar = Bar(*columns, console=console, transient=True)
            self._task = self._bar.add_task("")

    def points(self, count: int) -> None:
        """Note that so many points were computed; called in the thread of the side."""
        self._points += count
        self._show()

    def stand(self, stand: Stand) -> None:
        """Note how the meeting stands."""
        who = ", ".join(stand.missing) or "the coordinator"
        state = {
            "waiting": f"waiting for {who}",
            "meeting": "shaking hands",
            "at work": "at work",
            "ending": "done here; the others still work",
        }[stand.state]
        sent, received = sum(stand.sent.values()), sum(stand.received.values())
        self._moved = f", {sent / 1e6:,.1f} MB sent, {received / 1e6:,.1f} MB received" if sent else ""
        new = state != self._state
        self._state = state
        self._show(new=new)

    def _show(self, *, new: bool = False) -> None:
        points = f", {self._points:,} points" if self._points else ""
        line = f"{self._state}{points}{self._moved}"
        if self._bar is not None:
            self._bar.update(self._task, description=line)
        elif new or self._clock() >= self._next:
            self._next = self._clock() + SECONDS
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
