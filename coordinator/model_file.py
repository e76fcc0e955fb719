"""Models on disk: safetensors in, safetensors out, and a run's checkpoint. No torch, and no code in files.

A file of tensors has no order of its own. The order of the vector is the list of names, in JSON, under
``secagg.manifest`` in the file's metadata; without it, names in sorted order.

Source: https://huggingface.co/docs/safetensors/index (format).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, TypeAlias

import msgspec
import numpy as np

from coordinator.on_disk import OnDisk
from secagg.errors import EnvironmentFault, MalformedMessage, MissingExtra, ParameterError
from secagg.fixedpoint import BLOCK
from secagg.learning.history import Record
from secagg.learning.model import Blocks, GlobalModel, SealedBase, begin_digest, frozen, little
from secagg.learning.strategies import Strategy
from secagg.names import RealVector
from secagg.operator_files import unreadable
from secagg.payload import Payload

try:
    from safetensors import SafetensorError, safe_open
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


def write_model(path: Path, base: Blocks, layout: Layout) -> None:
    """Write the weights of ``base`` as 32 bit floats, whole or not at all; stock torch loads the file.

    Args:
        path: is replaced.
        base: whose weights; read block by block.
        layout: of the tensors; empty for one tensor ``weights``.

    Raises:
        ParameterError: the layout is of another length.
        EnvironmentFault: it cannot be written.
    """
    layout = layout or (("weights", (base.length,)),)
    check_layout(layout, base.length)
    header = _header("F32", layout, {MANIFEST: json.dumps([name for name, _ in layout])})
    with _replacing(path) as file:
        file.write(header)
        for block in base.blocks():
            file.write(block.weights.astype("<f4").data)


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


@dataclass(frozen=True, eq=False)
class FirstModel:
    """The base of round 1, made of the weights that somebody handed in; ``Blocks``.

    Args:
        strategy: whose fresh state comes beside the weights.
        handed_in: the weights, float64.
    """

    strategy: Strategy
    handed_in: Payload

    round = 1

    @property
    def length(self) -> int:
        """Number of weights."""
        return self.handed_in.length

    @property
    def slots(self) -> int:
        """Vectors of the strategy's state."""
        return self.strategy.slots

    def blocks(self) -> Iterator[GlobalModel]:
        """Yield the base block by block; see ``Blocks``.

        Raises:
            InputRefused: a weight is NaN or infinite.
        """
        data = self.handed_in.buffer()
        for start in range(0, len(data), 8 * BLOCK):
            yield self.strategy.start(np.frombuffer(data[start : start + 8 * BLOCK], "<f8"))


class StoredModel:
    """A base on disk, in a checkpoint that is not written to any more; a ``Base``.

    Args:
        round: the round that trains from it.
        length: number of weights.
        digest: as of ``GlobalModel``.
        data: the bytes of weights and state, float64, little-endian.
    """

    def __init__(self, round: int, length: int, digest: bytes, data: OnDisk) -> None:
        self.round = round
        self.length = length
        self.digest = digest
        self._data = data

    @property
    def slots(self) -> int:
        """Vectors of the strategy's state."""
        return len(self._data) // (8 * self.length) - 1

    def blocks(self) -> Iterator[GlobalModel]:
        """Yield the base block by block; see ``Blocks``."""
        for start in range(0, self.length, BLOCK):
            stop = min(self.length, start + BLOCK)
            weights, *state = (
                np.frombuffer(self._data[8 * (at + start) : 8 * (at + stop)], "<f8")
                for at in range(0, (1 + self.slots) * self.length, self.length)
            )
            yield GlobalModel(self.round, weights, tuple(state))

    def payload(self) -> Payload:
        """Return weights and state as they lie on disk."""
        return Payload.over("f8", len(self._data) // 8, self._data)

    def weights(self) -> Payload:
        """Return the weights as they lie on disk."""
        return Payload.over("f8", self.length, self._data.part(0, 8 * self.length))

    def __repr__(self) -> str:
        return f"StoredModel(round={self.round}, length={self.length}, slots={self.slots})"


_DAMAGE = (struct.error, msgspec.MsgspecError, MalformedMessage, LookupError, ValueError, ArithmeticError)


class _Facts(msgspec.Struct):
    """What a checkpoint says of itself; safetensors takes only texts."""

    round: str
    digest: str
    record: str
    sealed: str = ""  # Number of weights of a base that silos alone have; there are no tensors then.


class _Tensor(msgspec.Struct):
    dtype: Literal["F32", "F64"]
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    data_offsets: tuple[int, int]


def write_checkpoint(path: Path, base: Blocks, record: Record | None) -> StoredModel:
    """Write the base of the next round and the record of the last one, whole or not at all.

    One file is one step: after a crash both are there or neither is.

    Args:
        path: is replaced.
        base: read block by block while it is written.
        record: of the last round.

    Raises:
        InputRefused: as ``base`` does; nothing was replaced.
        EnvironmentFault: it cannot be written.
    """
    tensors = ("weights", *(f"state.{slot}" for slot in range(base.slots)))
    written = msgspec.msgpack.encode(record).hex()

    def header(digest: bytes) -> bytes:
        facts = _Facts(str(base.round), digest.hex(), written)
        return _header("F64", [(name, (base.length,)) for name in tensors], facts)

    data = len(header(bytes(32)))
    content = begin_digest(base.length, base.slots)
    with _replacing(path) as file:
        at = 0
        for block in base.blocks():
            for slot, vector in enumerate((block.weights, *block.state)):
                file.seek(data + 8 * (slot * base.length + at))
                file.write(little(vector))
            content.update(little(block.weights))  # While it is in the caches.
            at += block.length
        file.flush()
        stored = OnDisk.over(file.fileno(), data, 8 * len(tensors) * base.length)
        weights = 8 * base.length
        state = Payload.over("f8", base.slots * base.length, stored.part(weights, base.slots * weights))
        for piece in state.pieces():
            content.update(piece)
        file.seek(0)
        file.write(header(content.digest()))
    return StoredModel(base.round, base.length, content.digest(), stored)


def write_sealed(path: Path, base: SealedBase, record: Record) -> None:
    """Write the name of a base that silos alone have, and the record of the last round; as above.

    What the file held before is gone: nothing of a model is left here.

    Raises:
        EnvironmentFault: it cannot be written.
    """
    written = msgspec.msgpack.encode(record).hex()
    facts = _Facts(str(base.round), base.digest.hex(), written, str(base.length))
    write_whole(path, _header("F64", (), facts))


def read_checkpoint(path: Path) -> tuple[StoredModel | SealedBase, Record | None]:
    """Return what ``write_checkpoint`` or ``write_sealed`` wrote.

    Raises:
        EnvironmentFault: it cannot be read, or is damaged.
    """
    try:
        file = OnDisk.of(path)
        (size,) = struct.unpack("<Q", file[:8])
        header = msgspec.json.decode(file[8 : 8 + size], type=dict[str, msgspec.Raw])
        facts = msgspec.json.decode(header.pop("__metadata__"), type=_Facts)
        record: Record | None = _records.decode(bytes.fromhex(facts.record))
        if facts.sealed and len(file) == 8 + size and not header:
            return SealedBase(int(facts.round), int(facts.sealed), bytes.fromhex(facts.digest)), record
        tensors = [msgspec.json.decode(entry, type=_Tensor) for entry in header.values()]
        ((length,),) = {tensor.shape for tensor in tensors}
        data = file.part(8 + size, 8 * len(tensors) * length)
        if len(file) != 8 + size + len(data):
            raise MalformedMessage("it is cut off, or goes on behind its end")
        model = StoredModel(int(facts.round), length, bytes.fromhex(facts.digest), data)
        content = begin_digest(length, len(tensors) - 1)
        for piece in model.payload().pieces():
            content.update(piece)
        if content.digest() != model.digest:
            raise MalformedMessage("the digest is another one")
    except OSError as error:
        raise unreadable(path, error) from None
    except _DAMAGE as error:
        raise EnvironmentFault(f"{path} is damaged: restore it from a backup, or start a new run") from error
    return model, record


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all.

    Raises:
        EnvironmentFault: it cannot be written.
    """
    with _replacing(path) as file:
        file.write(content)


def unwritable(path: Path, error: OSError) -> EnvironmentFault:
    """Return the fault to raise where writing ``path`` failed with ``error``."""
    return EnvironmentFault(f"{path} cannot be written: {error.strerror}. Free space, or correct its owner")


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file that is ``path`` after the block, on disk for certain; nothing is left if it raises.

    Raises:
        EnvironmentFault: it cannot be written.
    """
    part = path.with_name(path.name + PART)
    try:
        try:
            with part.open("wb+") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise unwritable(path, error) from None


def _header(
    kind: Literal["F32", "F64"], tensors: Sequence[tuple[str, tuple[int, ...]]], facts: object
) -> bytes:
    """Return what comes before the bytes of ``tensors`` in a file of safetensors, which follow in this order.

    The library writes only what it is given whole, in memory.
    """
    entries: dict[str, object] = {"__metadata__": facts}
    at = 0
    for name, shape in tensors:
        size = prod(shape) * (4 if kind == "F32" else 8)
        entries[name] = _Tensor(kind, shape, (at, at + size))
        at += size
    text = msgspec.json.encode(entries)
    text += b" " * (-len(text) % 8)  # So that the numbers are aligned.
    return struct.pack("<Q", len(text)) + text


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
