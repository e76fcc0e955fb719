"""What comes before the query in a campaign; then a receiver and a sender talk as in any intersection."""

from __future__ import annotations

from secagg.messages import Said
from secagg.terms import Digest


class Joining(Said, frozen=True, tag=True):
    """Receiver to sender: I agreed on a campaign of these terms, and have no tags yet."""

    terms: Digest


class Asking(Said, frozen=True, tag=True):
    """Receiver to sender: I ask on these terms about the set whose tags I have; ``edition`` is theirs."""

    terms: Digest
    edition: Digest
