"""Weights as a file: safetensors, with the order of the tensors in its metadata. The first, and a model's.

Tensors carry the names of the app's own model where it has some (torch), so that whoever reads the file sees
a model; the vector that rounds work on is their concatenation in the listed order.

Source: https://huggingface.co/docs/safetensors/index (format).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import EnvironmentFault, MissingExtra, ParameterError
from secagg.learning.trainer import Trainer
from secagg.learning.workload import LearningWorkload
from secagg.names import SiloId

MANIFEST = "secagg.manifest"


def write_initial(path: Path, silo: SiloId, trainer: Trainer, *, seed: int) -> int:
    """Write the weights that ``trainer`` makes from ``seed`` and return how many they are.

    Args:
        path: the file; replaced as a whole if it exists.
        silo: whose trainer it is, for errors.
        trainer: with the method ``initial``.
        seed: 0 to 2**63 - 1; same seed, same weights.

    Raises:
        ParameterError: the trainer makes no first model.
        TrainerFailed: it raised.
        EnvironmentFault: the file cannot be written.
    """
    workload = LearningWorkload(silo, trainer)
    if not workload.initialises:
        raise ParameterError("the app's trainer has no method initial(seed), which makes the first weights")
    weights = workload.initial(seed)
    if weights.ndim != 1 or weights.dtype.kind != "f" or weights.size == 0:
        raise ParameterError(
            f"initial() returned {weights.dtype} of shape {weights.shape}; a vector of floats is needed"
        )
    write_tensors(path, trainer, weights)
    return int(weights.size)


def write_tensors(path: Path, trainer: Trainer, weights: NDArray[Any]) -> bytes:
    """Write a vector of weights, whole or not at all, and return what was written; the same for the same.

    Args:
        path: the file; replaced.
        trainer: whose names the tensors get.
        weights: floats, shape (length,).

    Raises:
        EnvironmentFault: the file cannot be written.
        MissingExtra: safetensors is not installed.
    """
    try:
        from safetensors.numpy import save
    except ModuleNotFoundError as missing:
        raise MissingExtra("silo", "safetensors") from missing

    tensors = _named(trainer, weights)
    # One entry of metadata: safetensors writes several in an order that changes.
    content = save(tensors, metadata={MANIFEST: json.dumps(list(tensors))})
    write_whole(path, content)
    return content


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        EnvironmentFault: it cannot be written.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_bytes(content)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise EnvironmentFault(f"{path} cannot be written: {error.strerror}") from error


def _named(trainer: Trainer, weights: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the tensors of ``weights`` in order, by the names that a torch trainer has for them."""
    if "torch" in sys.modules:
        from silo.torch_trainer import TorchTrainer

        if isinstance(trainer, TorchTrainer):
            shared = trainer.manifest.shared
            ends = np.cumsum([entry.length for entry in shared])[:-1]
            parts = zip(shared, np.split(weights, ends), strict=True)
            return {entry.name: part.reshape(entry.shape) for entry, part in parts}
    return {"weights": weights}
