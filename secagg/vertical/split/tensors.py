"""Tensors as bytes and back: safetensors, whose reader runs no code of who wrote them.

Source: https://huggingface.co/docs/safetensors/index (format).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from secagg.errors import MalformedMessage, MissingExtra
from secagg.vertical.split.ports import Tensors

_TERMS = "secagg.split.terms"


def encode(tensors: Tensors, terms: bytes) -> bytes:
    """Return ``tensors`` of a training with the digest ``terms``; the same for the same.

    Raises:
        MissingExtra: safetensors is not installed.
    """
    try:
        from safetensors.numpy import save  # noqa: PLC0415 - an extra.
    except ModuleNotFoundError as missing:
        raise MissingExtra("torch", "safetensors") from missing
    # One entry of metadata: safetensors writes several in an order that changes.
    content: bytes = save(
        {name: np.asarray(array, order="C") for name, array in tensors.items()},
        metadata={_TERMS: terms.hex()},
    )
    return content


def decode(content: bytes, terms: bytes) -> Tensors:
    """Return what ``encode`` was given.

    Raises:
        MalformedMessage: the bytes are not what it returned, or are of another training.
        MissingExtra: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError  # noqa: PLC0415 - an extra.
        from safetensors.numpy import load  # noqa: PLC0415 - an extra.
    except ModuleNotFoundError as missing:
        raise MissingExtra("torch", "safetensors") from missing
    try:
        tensors: Tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError):  # Its text may quote what it read.
        raise MalformedMessage("bytes are not tensors as safetensors") from None
    if encode(tensors, terms) != content:
        raise MalformedMessage("tensors are of another training, or have more with them than they should")
    return tensors


def prefixed(groups: Mapping[str, Tensors]) -> Tensors:
    """Return the tensors of all groups, each with its group's name and a dot before its own."""
    return {f"{group}.{name}": array for group, tensors in groups.items() for name, array in tensors.items()}


def group_of(tensors: Tensors, group: str) -> Tensors:
    """Return the tensors of one group, by their own names."""
    start = f"{group}."
    return {name.removeprefix(start): array for name, array in tensors.items() if name.startswith(start)}
