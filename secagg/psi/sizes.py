"""To what sizes sets are padded, so that a message says little of how many records a party has.

Padmé: of a size only as many leading bits are told as it takes to write its length, so that a set grows by
12 % at the most and log log of its size leaks.

Source: Nikitin, Barman, Lueks, Underwood, Hubaux, Ford 2019, "Reducing metadata leakage from encrypted files
and communication with PURBs", section 4.
"""

from __future__ import annotations

SMALLEST = 64
LARGEST = 1 << 26
"""Records of one set at the most: a message holds so many points and no more."""


def padded(size: int) -> int:
    """Return the size of the bucket of ``size``: at least that, at least ``SMALLEST``.

    Guarantees:
        It is the bucket of itself.
        It is at most an eighth above ``size``, or ``SMALLEST``.
    """
    if size <= SMALLEST:
        return SMALLEST
    exponent = size.bit_length() - 1
    last = exponent - exponent.bit_length()
    return (size + (1 << last) - 1) >> last << last
