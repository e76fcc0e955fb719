"""The pinned members of a federation: ordered names with their Ed25519 identity keys.

Every silo keeps its own copy, confirmed out of band by fingerprint. The order gives each silo its slot,
which decides the sign of pairwise masks and the index of secret shares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from secagg.errors import ParameterError, TrustError
from secagg.hazmat.framing import digest
from secagg.names import SiloId
from secagg.ranges import shown

SILO_ID_PATTERN = r"^[A-Za-z0-9._-]{1,64}\Z"  # Not $, which a line break may follow.
_SILO_ID = re.compile(SILO_ID_PATTERN)


def check_silo(silo: object) -> None:
    """Check that ``silo`` can be the name of a silo.

    Raises:
        ParameterError: it is no text, or has other characters, or too many.
    """
    if not isinstance(silo, str):
        raise ParameterError(f"a silo name is {shown(silo)}, must be a text")
    if not _SILO_ID.match(silo):
        raise ParameterError(f"silo name {silo!r}: 1 to 64 of letters, digits, dot, underscore, hyphen")


@dataclass(frozen=True)
class Roster:
    """Ordered silos with pinned identity keys.

    Attributes:
        members: (silo id, Ed25519 public key of 32 bytes) in slot order; ids and keys distinct.

    Raises:
        ParameterError: empty, a malformed name, a repeated name or key, a key of the wrong size.
    """

    members: tuple[tuple[SiloId, bytes], ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise ParameterError("a roster needs at least one silo")
        for silo, key in self.members:
            check_silo(silo)
            if len(key) != 32:
                raise ParameterError(f"{silo}: an identity key has 32 bytes, not {len(key)}")
        if len({silo for silo, _ in self.members}) < len(self.members):
            raise ParameterError("a silo stands twice in the roster")
        if len({key for _, key in self.members}) < len(self.members):
            raise ParameterError("two silos of the roster have one identity key")

    @classmethod
    def of(cls, keys: Mapping[SiloId, bytes]) -> Roster:
        """Return the roster of ``keys`` in the order of the mapping."""
        return cls(tuple(keys.items()))

    @property
    def n(self) -> int:
        """How many silos are pinned."""
        return len(self.members)

    @cached_property
    def silos(self) -> tuple[SiloId, ...]:
        """The names in slot order."""
        return tuple(silo for silo, _ in self.members)

    @cached_property
    def _slots(self) -> Mapping[SiloId, int]:
        return {silo: slot for slot, silo in enumerate(self.silos)}

    def __contains__(self, silo: object) -> bool:
        return silo in self._slots

    def slot(self, silo: SiloId) -> int:
        """Return the position of ``silo``, from 0."""
        return self._slots[silo]

    def key(self, silo: SiloId) -> bytes:
        """Return the pinned Ed25519 public key of ``silo``, 32 bytes."""
        return self.members[self._slots[silo]][1]

    def ordered(self, silos: frozenset[SiloId] | set[SiloId]) -> tuple[SiloId, ...]:
        """Return ``silos`` in slot order."""
        return tuple(silo for silo in self.silos if silo in silos)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that two parties compare to know that they pinned the same silos in the same order."""
        return digest("roster", self.members)

    def expect(self, other: Roster) -> None:
        """Check that ``other`` is this roster.

        Raises:
            TrustError: naming the silos that differ.
        """
        if other.digest == self.digest:
            return
        mine, theirs = dict(self.members), dict(other.members)
        changed = sorted(s for s in mine.keys() | theirs.keys() if mine.get(s) != theirs.get(s))
        raise TrustError(
            f"the roster differs from the pinned one: {', '.join(changed) or 'the order of silos'}"
        )
