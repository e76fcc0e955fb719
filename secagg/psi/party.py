"""What every session of an intersection has: what a party brings to it, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from secagg.errors import FaultySilo, PolicyRefused
from secagg.psi.draws import Draws, fresh
from secagg.psi.identifiers import Identifiers
from secagg.psi.outcome import Ended, Outcome
from secagg.psi.powers import Powers
from secagg.psi.terms import IntersectionPolicy

T = TypeVar("T")


class Party(Generic[T]):
    """One party's side of one intersection; no I/O.

    Args:
        terms: that all agreed on.
        identifiers: this party's.
        policy: its own limits.
        powers: computes.
        draws: for keys, exponents, orders and padding; ``Seeded`` in a session that may be resumed.

    Guarantees:
        After a refusal nothing more is taken or said.
    """

    _state: object

    def __init__(
        self,
        terms: T,
        identifiers: Identifiers,
        *,
        policy: IntersectionPolicy,
        powers: Powers,
        draws: Draws = fresh,
    ) -> None:
        self._terms = terms
        self._identifiers = identifiers
        self._policy = policy
        self._powers = powers
        self._draws = draws

    @property
    def terms(self) -> T:
        """What all agreed on."""
        return self._terms

    @property
    def outcome(self) -> Outcome | None:
        """What was learned, at the end; None before, and where this party is not to learn."""
        return self._state if isinstance(self._state, Outcome) else None

    @contextmanager
    def _until_refused(self) -> Iterator[None]:
        try:
            yield
        except (FaultySilo, PolicyRefused):
            self._state = Ended()
            raise
