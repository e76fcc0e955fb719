"""What a party's side of a training returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secagg.names import SiloId
from secagg.vertical.linear.parts import ModelPart
from secagg.vertical.report import Seen


@dataclass(frozen=True, kw_only=True)
class Learned:
    """One party's part, and what it saw.

    Attributes:
        part: of the model.
        columns: party -> how many it brought; that much all know of each other.
        gradients: that were computed.
        converged: whether the last one was short enough.
        seen: beyond the party's own data.
    """

    part: ModelPart
    columns: Mapping[SiloId, int]
    gradients: int
    converged: bool
    seen: tuple[Seen, ...]
