"""What a follower's exponent makes of an identifier, as the 128 bits that hide its share of zero."""

from __future__ import annotations

import numpy as np

from secagg.hazmat.framing import digest
from secagg.names import SiloId
from secagg.psi.many.terms import ManyTerms
from secagg.psi.okvs import Words
from secagg.psi.tags import tags_of


def hidden_by(terms: ManyTerms, follower: SiloId, points: bytes) -> Words:
    """Return the values of points under the exponent of ``follower``: uint64, shape (points, 2)."""
    context = digest("intersection value", terms.digest, follower)
    return np.frombuffer(tags_of(points, context).tobytes(), np.uint64).reshape(-1, 2)
