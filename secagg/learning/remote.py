"""What ``Federation`` needs of a running coordinator: to start a run there, watch it, and fetch its model.

The library opens no connection; ``coordinator.client.Coordinator`` is such a thing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from rich.console import Console

from secagg.errors import ParameterError, SecaggError
from secagg.learning.history import History, Record
from secagg.learning.model import frozen
from secagg.learning.progress import Observer
from secagg.learning.request import EncryptedAsked, RunRequest
from secagg.names import APP_PATTERN, RealVector
from secagg.ranges import shown
from secagg.roster import SILO_ID_PATTERN

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

    def watch(self, run: str, observer: Observer, *, waiting: Callable[[str], None] | None = None) -> Outcome:
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


def check_request(app: str | None, name: str, initial: object, metrics: Iterable[str] | None) -> None:
    """Check what a run at a coordinator needs beside what every run has.

    Raises:
        ParameterError: something is missing.
    """
    if app is None or not re.fullmatch(APP_PATTERN, app):
        raise ParameterError(
            f"app is {shown(app)}: silos of a coordinator train with code that they approved; name it, "
            'app="package.module:function"'
        )
    if not re.match(SILO_ID_PATTERN, name):
        raise ParameterError("name: 1 to 64 of letters, digits, dot, underscore, hyphen")
    if initial is None:
        raise ParameterError(
            "initial is None, and no trainer is here to ask: give the first weights, "
            "or the path of a safetensors file with them"
        )
    if metrics is None:
        raise ParameterError(
            'metrics is None, and no trainer is here to ask: name them, metrics=["loss"], or () for none'
        )


def first_weights(remote: Remote, initial: Any) -> tuple[RealVector, Layout]:
    """Return the first weights of a run and their layout, which is empty for a bare vector.

    Raises:
        ParameterError, InputRefused, EnvironmentFault: ``initial`` holds none.
    """
    if isinstance(initial, str | PathLike):
        return remote.read_initial(Path(initial))
    try:
        vector = np.asarray(initial)
    except (TypeError, ValueError, RuntimeError):
        raise ParameterError("initial cannot be read as a vector of weights") from None
    return frozen(vector), ()


def run_remotely(
    remote: Remote, request: RunRequest, weights: RealVector, *, observer: Observer, talk: bool
) -> tuple[Outcome, History]:
    """Start a run at a coordinator, show it to its end, and fetch its model.

    Args:
        remote: the coordinator.
        request: what is asked for.
        weights: first global weights.
        observer: entered and told.
        talk: say on standard error whom the run waits for.

    Returns:
        How it ended, and its history as far as it came.

    Guarantees:
        Ctrl-C ends the watching and not the run; its note says how to go on.
    """
    run = remote.start(request, weights)
    console = Console(stderr=True, highlight=False)
    try:
        with observer:
            outcome = remote.watch(run, observer, waiting=console.print if talk else None)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(how_to_go_on(run))
        raise
    if not outcome.records:
        return outcome, History(weights, ())
    sealed = isinstance(request.scheme, EncryptedAsked)
    return outcome, History(None if sealed else remote.model(run), outcome.records)


def how_to_go_on(run: str) -> str:
    """Return what is said when somebody stops watching ``run``."""
    return (
        f"run {run} goes on at the coordinator. Watch it again: coordinator run watch {run}; "
        f"end it: coordinator run halt {run}"
    )
