"""A torch state dict as one flat vector of floats, and back.

What it is: a frozen list of names, shapes and dtypes in state-dict order. Floating-point tensors (the
parameters, and buffers such as batch-norm running means and variances) are concatenated into the vector
and therefore averaged. Integer and boolean tensors (``num_batches_tracked``, masks, look-up tables) have
no meaningful average: they are listed, but stay with the silo.

What it does not do: it moves no tensor between devices but to the CPU, and it reads no file. Buffers
registered with ``persistent=False`` are in no state dict and are not seen at all.

Source: torch.nn.Module.state_dict; McMahan et al. 2017 (AISTATS), where w is this vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parameter import is_lazy

from secagg.errors import InputRefused, ParameterError


@dataclass(frozen=True)
class Entry:
    """One tensor of a state dict.

    Attributes:
        name: its key, such as ``"conv1.weight"``.
        shape: its shape; ``()`` for a scalar.
        dtype: its torch dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def length(self) -> int:
        """Number of entries."""
        return prod(self.shape)


@dataclass(frozen=True)
class Manifest:
    """Names, shapes and dtypes of a model, in the order of its vector.

    Attributes:
        entries: every tensor of the state dict, in its order.

    Guarantees:
        - ``unpack(pack(state))`` gives back every floating-point tensor bit for bit.
        - Two models with the same digest agree on the meaning of every entry of the vector.
    """

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Manifest:
        """Describe a state dict.

        Args:
            state: name -> tensor, as ``model.state_dict()`` gives it.

        Raises:
            ParameterError: an entry is no tensor, is complex, or has no shape yet (a lazy module); or
                nothing is floating point, so that there is nothing to average.
        """
        for name, value in state.items():
            if not isinstance(value, Tensor):
                raise ParameterError(f"state entry {name!r} is a {type(value).__name__}, not a tensor")
            if is_lazy(value):
                raise ParameterError(f"{name!r} has no shape yet; run one batch through the model first")
            if value.is_complex():
                raise ParameterError(f"{name!r} is complex; store its real and imaginary part instead")
        manifest = cls(tuple(Entry(name, tuple(value.shape), value.dtype) for name, value in state.items()))
        if manifest.length == 0:
            raise ParameterError("the model has no floating-point parameter; there is nothing to train")
        return manifest

    @property
    def shared(self) -> tuple[Entry, ...]:
        """The entries that make up the vector: floating point, in order."""
        return tuple(entry for entry in self.entries if entry.dtype.is_floating_point)

    @property
    def local(self) -> tuple[Entry, ...]:
        """The entries that stay with the silo: integer and boolean."""
        return tuple(entry for entry in self.entries if not entry.dtype.is_floating_point)

    @property
    def length(self) -> int:
        """Entries of the vector."""
        return sum(entry.length for entry in self.shared)

    @property
    def digest(self) -> str:
        """SHA-256 over length-prefixed names, dtypes and shapes, in hex (64 characters)."""
        running = hashlib.sha256(b"secagg manifest 1")
        for entry in self.entries:
            for part in (entry.name, str(entry.dtype), repr(entry.shape)):
                field = part.encode()
                running.update(len(field).to_bytes(4, "little") + field)
        return running.hexdigest()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Smallest of float32 and float64 that holds every shared tensor exactly."""
        wide = any(entry.dtype == torch.float64 for entry in self.shared)
        return np.dtype(np.float64 if wide else np.float32)

    def pack(self, state: Mapping[str, Any]) -> NDArray[Any]:
        """Flatten a state dict into one new vector, shape (length,), of ``self.dtype``.

        Raises:
            InputRefused: as ``check`` does.
        """
        self.check(state)
        vector = np.empty(self.length, self.dtype)
        start = 0
        for entry in self.shared:
            target = torch.from_numpy(vector[start : start + entry.length])
            target.copy_(state[entry.name].detach().reshape(-1))
            start += entry.length
        return vector

    def unpack(self, vector: NDArray[Any]) -> dict[str, Tensor]:
        """Cut a vector into new CPU tensors of the listed shapes and dtypes, without the local entries.

        Args:
            vector: floats, shape (length,).

        Raises:
            InputRefused: rule ``"shape"`` or ``"dtype"``: it is not a float vector of this length.
        """
        if vector.shape != (self.length,):
            raise InputRefused(
                "shape",
                f"the global model has shape {vector.shape}, this silo's model needs ({self.length},); "
                "give every silo the same model",
            )
        if vector.dtype not in (np.float32, np.float64):
            raise InputRefused("dtype", f"the global model is {vector.dtype}; float32 or float64 is needed")
        tensors: dict[str, Tensor] = {}
        start = 0
        for entry in self.shared:
            piece = np.array(vector[start : start + entry.length])  # a copy: the caller's vector is read-only
            tensors[entry.name] = torch.from_numpy(piece).to(entry.dtype).reshape(entry.shape)
            start += entry.length
        return tensors

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuse a state dict that is no longer the model this manifest was made of.

        Raises:
            InputRefused: rule ``"shape"``, ``"dtype"`` or ``"layout"`` (a name came or went); the text
                names the first parameter that differs.
        """
        same = "the model must keep its parameters from round to round"
        for entry in self.entries:
            if entry.name not in state:
                raise InputRefused("layout", f"parameter {entry.name!r} is gone; {same}")
            now = state[entry.name]
            if tuple(now.shape) != entry.shape:
                raise InputRefused(
                    "shape",
                    f"parameter {entry.name!r} had shape {entry.shape} when the silo was set up and has "
                    f"{tuple(now.shape)} now; {same}",
                )
            if now.dtype != entry.dtype:
                raise InputRefused(
                    "dtype", f"parameter {entry.name!r} was {entry.dtype} and is {now.dtype} now; {same}"
                )
        known = {entry.name for entry in self.entries}
        for name in state:
            if name not in known:
                raise InputRefused("layout", f"parameter {name!r} is new; {same}")
