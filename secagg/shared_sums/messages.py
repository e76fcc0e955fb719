"""What the two parties of a sum say to each other, after ``Query``, ``Evaluated`` and ``Tags`` of a count.

No size of a message tells how many records are shared.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from secagg.messages import Said
from secagg.paillier.params import MOST_BITS
from secagg.paillier.permutation import ROOTS
from secagg.payload import Payload
from secagg.psi.messages import Count

PublicKeyBytes = Annotated[bytes, msgspec.Meta(min_length=1, max_length=2048)]

Roots = Annotated[bytes, msgspec.Meta(min_length=1, max_length=ROOTS * MOST_BITS // 8)]


class Encrypted(Said, frozen=True, tag=True):
    """Holder to matcher: the values of each tag, in the order of tags, under this public key; u1.

    ``roots``: that the key hides from the holder, too, what is added; see ``secagg.paillier.permutation``.
    """

    key: PublicKeyBytes
    roots: Roots
    ciphertexts: Payload


class Added(Said, frozen=True, tag=True):
    """Matcher to holder: how many are shared; the sum encrypted anew, masked if the holder is not to learn.

    Ciphertexts are u1.
    """

    count: Count
    ciphertexts: Payload


class Opened(Said, frozen=True, tag=True):
    """Holder to matcher, where that learns: the plaintexts of what was added; u1, little-endian."""

    plaintexts: Payload
