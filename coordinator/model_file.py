"""Models on disk: safetensors in, safetensors out, and a run's checkpoint. No torch, and no code in files.

A file of tensors has no order of its own. The order of the vector is the list of names, in JSON, under
``secagg.manifest`` in the file's metadata; without it, names in sorted order.

Source: https://huggingface.co/docs/safetensors/index (format).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from secagg.errors import EnvironmentFault, InputRefused, MalformedMessage, MissingExtra, ParameterError
from secagg.learning.history import Record
from secagg.learning.model import GlobalModel, frozen
from secagg.names import RealVector
from secagg.operator_files import unreadable

try:
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save_file
except ModuleNotFoundError as missing:
    raise MissingExtra("coordinator", "safetensors") from missing

Layout: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""(name, shape) of each tensor, in the order of the vector."""

MANIFEST = "secagg.manifest"
FLOATS = {"F16", "F32", "F64"}
PART = ".part"
"""Ends the name of a file that is not whole yet; whoever writes next writes over it."""

_records = msgspec.msgpack.Decoder(Record | None)


def read_initial(path: Path) -> tuple[RealVector, Layout]:
    """Return the first global weights in ``path``, and where each tensor lies in them.

    Args:
        path: safetensors of 16, 32 or 64 bit floats.

    Returns:
        Weights, float64, shape (length,), and the layout.

    Raises:
        EnvironmentFault: it cannot be read, or is no safetensors file.
        ParameterError: a tensor is not floating point, or the manifest does not fit the tensors.
        InputRefused: a weight is NaN or infinite.
    """
    try:
        with safe_open(path, framework="np") as file:
            names = _order(path, tuple(file.keys()), file.metadata() or {})
            for name in names:
                dtype = str(file.get_slice(name).get_dtype())
                if dtype not in FLOATS:
                    raise ParameterError(
                        f"{path}: {name!r} is {dtype}; a vector of weights is made of F16, F32 or F64. "
                        "Leave out what is not trained, or convert it"
                    )
            tensors = [file.get_tensor(name) for name in names]
    except OSError as error:
        raise unreadable(path, error) from None
    except SafetensorError:
        raise EnvironmentFault(f"{path} is no safetensors file, or not a whole one") from None
    layout = tuple((name, tensor.shape) for name, tensor in zip(names, tensors, strict=True))
    if not sum(tensor.size for tensor in tensors):
        raise ParameterError(f"{path} holds no weight")
    return frozen(np.concatenate([tensor.ravel() for tensor in tensors], dtype=np.float64)), layout


def write_model(path: Path, weights: RealVector, layout: Layout) -> None:
    """Write ``weights`` as 32 bit floats, whole or not at all; stock torch loads the file.

    Args:
        path: is replaced.
        weights: float64, shape (length,).
        layout: of the tensors; empty for one tensor ``weights``.

    Raises:
        ParameterError: the layout is of another length.
        EnvironmentFault: it cannot be written.
    """
    layout = layout or (("weights", weights.shape),)
    check_layout(layout, weights.size)
    single, at, tensors = weights.astype(np.float32), 0, {}
    for name, shape in layout:
        size = prod(shape)
        tensors[name] = single[at : at + size].reshape(shape)
        at += size
    _write(path, tensors, {MANIFEST: json.dumps([name for name, _ in layout])})


def check_layout(layout: Layout, length: int) -> None:
    """Check that ``layout`` describes ``length`` weights.

    Raises:
        ParameterError: it does not, or names a tensor twice.
    """
    if len({name for name, _ in layout}) < len(layout):
        raise ParameterError("the layout names a tensor twice")
    if any(axis < 0 for _, shape in layout for axis in shape):
        raise ParameterError("the layout has an axis below 0")
    if (described := sum(prod(shape) for _, shape in layout)) != length:
        raise ParameterError(f"the layout is of {described} weights, the model has {length}")


def write_checkpoint(path: Path, model: GlobalModel, record: Record | None) -> None:
    """Write the base of the next round and the record of the last one, whole or not at all.

    One file is one step: after a crash both are there or neither is.

    Raises:
        EnvironmentFault: it cannot be written.
    """
    tensors = {"weights": model.weights} | {f"state.{i}": slot for i, slot in enumerate(model.state)}
    _write(
        path,
        tensors,
        {
            "round": str(model.round),
            "digest": model.digest.hex(),
            "record": msgspec.msgpack.encode(record).hex(),
        },
    )


def read_checkpoint(path: Path) -> tuple[GlobalModel, Record | None]:
    """Return what ``write_checkpoint`` wrote.

    Raises:
        EnvironmentFault: it cannot be read, or is damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            facts = file.metadata() or {}
            slots = len(tuple(file.keys())) - 1
            state = tuple(file.get_tensor(f"state.{i}") for i in range(slots))
            model = GlobalModel(int(facts["round"]), file.get_tensor("weights"), state)
        record: Record | None = _records.decode(bytes.fromhex(facts["record"]))
        if model.digest.hex() != facts["digest"]:
            raise MalformedMessage("the digest is another one")
    except OSError as error:
        raise unreadable(path, error) from None
    except (
        SafetensorError,
        msgspec.MsgspecError,
        InputRefused,
        MalformedMessage,
        KeyError,
        ValueError,
    ) as error:
        raise EnvironmentFault(f"{path} is damaged: restore it from a backup, or start a new run") from error
    return model, record


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all.

    Raises:
        EnvironmentFault: it cannot be written.
    """
    part = _part(path)
    try:
        part.write_bytes(content)
        _publish(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> EnvironmentFault:
    """Return the fault to raise where writing ``path`` failed with ``error``."""
    return EnvironmentFault(f"{path} cannot be written: {error.strerror}. Free space, or correct its owner")


def _write(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    part = _part(path)
    try:
        save_file(
            {name: np.ascontiguousarray(t).reshape(t.shape) for name, t in tensors.items()},
            part,
            dict(metadata),
        )
        _publish(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise unwritable(path, error) from None
    except SafetensorError as error:  # It reports a full disk so.
        part.unlink(missing_ok=True)
        raise EnvironmentFault(f"{path} cannot be written: {error}. Free space") from None


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART)


def _publish(part: Path, path: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _order(path: Path, names: tuple[str, ...], metadata: Mapping[str, str]) -> tuple[str, ...]:
    if MANIFEST not in metadata:
        return tuple(sorted(names))
    try:
        order = msgspec.json.decode(metadata[MANIFEST], type=tuple[str, ...])
    except msgspec.MsgspecError:
        raise ParameterError(f"{path}: {MANIFEST} in its metadata is no list of names in JSON") from None
    if sorted(order) != sorted(names):
        raise ParameterError(f"{path}: {MANIFEST} in its metadata does not name the tensors of the file")
    return order
