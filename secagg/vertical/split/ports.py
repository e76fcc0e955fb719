"""What trains under a split network: differentiable functions of rows, whatever framework computes them.

``silo.split_torch`` has them for torch. Losses, clipping, noise and labels are not theirs but the protocol's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

RealMatrix: TypeAlias = NDArray[np.float64]
Tensors: TypeAlias = Mapping[str, NDArray[Any]]
"""Name -> array, each of numbers; as safetensors has them."""


class Network(Protocol):
    """A function of each row by itself, with parameters that descend.

    Guarantees that whoever implements it must give:
        An output depends on its own row alone, so that a row can be clipped and noised by itself.
        Nothing is drawn: from one ``state`` and the same inputs the same follows, bit for bit.
    """

    def forward(self, rows: RealMatrix) -> RealMatrix:
        """Return the outputs, shape (rows, outputs), for inputs of shape (rows, inputs)."""
        ...

    def backward(self, gradient: RealMatrix) -> RealMatrix:
        """Take one step of descent.

        Args:
            gradient: of the loss, with regard to what ``forward`` returned last, of its shape.

        Returns:
            The gradient with regard to the inputs of that call, as it was before the step.
        """
        ...

    def weights(self) -> Tensors:
        """Return what ``forward`` depends on."""
        ...

    def state(self) -> Tensors:
        """Return ``weights``, and what steps depend on beside them."""
        ...

    def load(self, tensors: Tensors) -> None:
        """Go on from what ``weights`` or ``state`` of a network of the same shape returned.

        Raises:
            InputRefused: they are of another shape.
        """
        ...


class Networks(Protocol):
    """Builds a party's networks. Weights begin as the seed says, which is secret: so are the functions."""

    def bottom(self, columns: int, width: int, *, seed: int) -> Network:
        """Return a network from ``columns`` inputs to ``width`` outputs; ``seed`` is 0 to 2**63 - 1."""
        ...

    def top(self, width: int, *, seed: int) -> Network:
        """Return a network from ``width`` inputs to one output, the logarithm of the odds."""
        ...
