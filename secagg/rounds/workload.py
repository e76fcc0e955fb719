"""What a round is for, as the protocol sees it: a model held, a vector to upload, a sum to apply."""

from __future__ import annotations

from typing import Protocol

from secagg.messages import Opened
from secagg.names import IntegerVector, SiloId
from secagg.payload import Payload
from secagg.session import Aggregate
from secagg.terms import Terms


class Workload(Protocol):
    """One silo's own work. Learning has one, bare sums have another.

    Guarantees:
        A model that came from the coordinator is only a candidate until ``confirm``: t silos must have
        signed for it first.
    """

    def accept(self, terms: Terms) -> None:
        """Check that this silo does such work; called before anything else is done with ``terms``.

        Raises:
            PolicyRefused, FaultyCoordinator: it does not.
        """
        ...

    def holds(self, terms: Terms) -> bytes | None:
        """Return the digest of the model that this silo computed or confirmed for this round, or None."""
        ...

    def base_size(self, terms: Terms) -> int:
        """Return how many bytes the base of accepted terms has."""
        ...

    def base(self, terms: Terms) -> Payload | None:
        """Return the model that this silo computed or confirmed for this round, or None."""
        ...

    def adopt(self, terms: Terms, base: Payload) -> None:
        """Take ``base`` as the candidate for ``terms.round``; its digest must be ``terms.base``.

        Raises:
            FaultyCoordinator: it is not.
        """
        ...

    def confirm(self, terms: Terms) -> None:
        """T silos signed for ``terms.base``: a candidate becomes the model that is held."""
        ...

    def vector(self, terms: Terms) -> IntegerVector:
        """Evaluate, train and encode; called once for one set of terms.

        Raises:
            InputRefused, TrainerFailed: nothing leaves the silo.
        """
        ...

    def apply(self, terms: Terms, aggregate: Aggregate, *, faulty: tuple[SiloId, ...] = ()) -> Opened:
        """Compute the next model from the opened sum; return what is to be said of it.

        Args:
            terms: of the round.
            aggregate: the sum.
            faulty: silos whose part of its opening was wrong.
        """
        ...

    def said(self, terms: Terms) -> Opened | None:
        """Return what ``apply`` returned for these terms, for which it is not called again, or None.

        Where silos alone have models, it is kept with the model: once all have applied the sum, nobody holds
        the base, and no sum can be applied to it again.
        """
        ...
