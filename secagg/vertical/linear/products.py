"""Products of parties' matrices with hidden vectors of others: ``secagg.vertical.lattice`` as a conversation.

A *holder* hides a vector with an entry for each row. An *asker* learns its matrix times the sum of the
vectors of its holders. With several holders what each opens is under masks that vanish in the sum, so that
the asker does not learn what came of whom.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side, hear, say
from secagg.names import RandomSource, SiloId
from secagg.payload import Payload
from secagg.vertical.lattice.ciphertexts import MASK, SecretKey
from secagg.vertical.lattice.product import Layout, Masked, Matrix, hide, opened, unmasked
from secagg.vertical.lattice.ring import DEGREE, WIDE, Limbs
from secagg.vertical.linear import received
from secagg.vertical.linear.masks import Masks
from secagg.vertical.linear.messages import Hidden, MaskedProducts, Opened, PublicKey


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Who holds and who asks; the same at all parties.

    Attributes:
        holders: parties that hide a vector.
        askers: party -> columns of its matrix.
    """

    holders: tuple[SiloId, ...]
    askers: Mapping[SiloId, int]

    def holders_for(self, asker: SiloId) -> tuple[SiloId, ...]:
        """Whose vectors an asker's matrix is multiplied with: all but its own."""
        return tuple(holder for holder in self.holders if holder != asker)

    def layout(self, rows: int) -> Layout:
        """How the rows of all matrices lie."""
        return Layout.of(rows, max(self.askers.values()))


class Products:
    """One party's part in products; for one session.

    Args:
        name: of the party.
        roles: of all.
        layout: of all matrices.
        masks: of the party, after it met the others.
        random: where keys, noise and masks come from.
    """

    def __init__(
        self, name: SiloId, roles: Roles, layout: Layout, masks: Masks, random: RandomSource = os.urandom
    ) -> None:
        self._name = name
        self._roles = roles
        self._layout = layout
        self._masks = masks
        self._random = random
        self._key = SecretKey(random)
        self._publics: dict[SiloId, tuple[bytes, Limbs]] = {}
        self._asked = tuple(a for a in roles.askers if a != name) if name in roles.holders else ()
        self._holding = roles.holders_for(name) if name in roles.askers else ()

    def meet(self) -> Side[None]:
        """Exchange public keys.

        Raises:
            FaultySilo: one is none.
        """
        if self._asked:
            seed, second = self._key.public()
            for asker in self._asked:
                yield from say(asker, PublicKey(seed, _payload(second)))
        for holder in self._holding:
            public = yield from hear(holder, PublicKey)
            (second,) = received.residues(holder, public.second, (len(WIDE.primes), DEGREE))
            self._publics[holder] = public.seed, second

    def multiply(
        self, number: int, vector: NDArray[np.int32] | None, matrix: Matrix | None
    ) -> Side[NDArray[np.int64]]:
        """Hide a vector, help others with theirs, and return the products of the own matrix.

        Args:
            number: of this product in the session.
            vector: of a holder, else None.
            matrix: of an asker, else None.

        Returns:
            ``matrix`` times the sum of the others' vectors, shape (columns,); nothing without a matrix.

        Raises:
            FaultySilo: a party sent something of another size or form.
        """
        if vector is not None:
            seed, seconds = hide(self._key, vector, self._layout)
            for asker in self._asked:
                yield from say(asker, Hidden(seed, _payload(seconds)))
        masks = np.zeros(0, np.uint64) if matrix is None else (yield from self._ask(matrix))
        for asker in self._asked:
            yield from self._help(number, asker)
        total = np.zeros(len(masks), np.uint64)
        for holder in self._holding if matrix is not None else ():
            given = yield from hear(holder, Opened)
            total += received.plaintexts(holder, given.products, len(total))
        return unmasked(total, masks)

    def _ask(self, matrix: Matrix) -> Side[NDArray[np.uint64]]:
        """Send each holder masked products with its vector; return the sum of the masks."""
        total = np.zeros(self._roles.askers[self._name], np.uint64)
        for holder in self._holding:
            hidden = yield from hear(holder, Hidden)
            (seconds,) = received.residues(holder, hidden.seconds, self._layout.hidden_shape)
            vector = hidden.seed, seconds
            masked, masks = matrix.masked_product(self._publics[holder], vector, self._random)
            total += masks
            yield from say(holder, MaskedProducts(_payload(masked.firsts, masked.seconds)))
        return total

    def _help(self, number: int, asker: SiloId) -> Side[None]:
        columns = self._roles.askers[asker]
        given = yield from hear(asker, MaskedProducts)
        masked: Masked = received.masked(asker, given.halves, self._layout, columns)
        products = opened(self._key, masked, self._layout, columns)
        mine = self._masks.masked(products, number, to=asker, senders=self._roles.holders_for(asker))
        yield from say(asker, Opened(_payload(mine & MASK)))


def _payload(*arrays: NDArray[np.uint32] | NDArray[np.uint64]) -> Payload:
    return Payload.of(np.concatenate([array.reshape(-1) for array in arrays]))
