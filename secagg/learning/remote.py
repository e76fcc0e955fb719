"""What ``Federation`` needs of a running coordinator: to start a run there, watch it, and fetch its model.

The library opens no connection; ``coordinator.client.Coordinator`` is such a thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from secagg.errors import SecaggError
from secagg.learning.history import Record
from secagg.learning.progress import Observer
from secagg.learning.request import RunRequest
from secagg.names import RealVector

Layout: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""(name, shape) of each tensor, in the order of the vector."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run at a coordinator ended.

    Attributes:
        run: its name there.
        state: ``"completed"``, ``"degraded"``, ``"halted"``, ``"refused"`` or ``"stopped"``.
        exit: the exit code that it means.
        text: the verdict in words.
        records: one for each opened sum.
        error: why it did not complete; None if it did.
        model, card: paths at the coordinator; None unless it completed.
    """

    run: str
    state: str
    exit: int
    text: str
    records: tuple[Record, ...]
    error: SecaggError | None = None
    model: str | None = None
    card: str | None = None


@runtime_checkable
class Remote(Protocol):
    """A coordinator that runs somewhere else; every call may raise EnvironmentFault or TrustError."""

    def read_initial(self, path: Path) -> tuple[RealVector, Layout]:
        """Return the weights in a file, and where each tensor lies in them."""
        ...

    def start(self, request: RunRequest, weights: RealVector) -> str:
        """Start a run from ``weights`` and return its name.

        Raises:
            ParameterError, InputRefused: a value that no run can have.
            UsageError: another run is under way.
        """
        ...

    def watch(
        self, run: str, observer: Observer, *, waiting: Callable[[str], None] | None = None
    ) -> Outcome:
        """Tell ``observer`` of a run from its first round until it ended.

        Args:
            run: its name.
            observer: told of everything, also what was before the call; entered by the caller.
            waiting: told, in words, when the run or this call waits for somebody.

        Raises:
            UsageError: there is no such run.
        """
        ...

    def model(self, run: str) -> RealVector:
        """Return the weights after the last opened sum, float64, shape (length,)."""
        ...
