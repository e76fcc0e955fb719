"""How values stand in a vector file, and where the fixed randomness of the generator comes from.

Bytes are text that begins with ``0x``. Fields of a frame are ``[type, value]`` pairs, because JSON has one
number and the protocol has two. Floats in a field are hexadecimal text, so that every bit is written down.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from secagg import wire
from secagg.errors import SecaggError
from secagg.hazmat.framing import Field
from secagg.messages import Message
from secagg.payload import describe
from secagg.roster import Roster

Json: TypeAlias = Any

FOLDER = Path(__file__).parent


class CounterSource:
    """A ``RandomSource`` for vectors: SHA-256 of a name and a counter, block after block.

    ``drawn`` keeps what was given out, for the file: other implementations need the bytes, not this class.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._counter = 0
        self._left = b""
        self.drawn = b""

    def __call__(self, size: int) -> bytes:
        while len(self._left) < size:
            self._left += hashlib.sha256(
                f"secagg test vectors/{self._name}/{self._counter}".encode()
            ).digest()
            self._counter += 1
        given, self._left = self._left[:size], self._left[size:]
        self.drawn += given
        return given


class Replay:
    """A ``RandomSource`` that gives out ``stored`` and fails loudly when asked for more."""

    def __init__(self, stored: bytes) -> None:
        self._left = stored

    def __call__(self, size: int) -> bytes:
        given, self._left = self._left[:size], self._left[size:]
        assert len(given) == size, "the product drew more randomness than the vector has"
        return given

    @property
    def used_up(self) -> bool:
        return not self._left


def fixed(name: str, size: int = 32) -> bytes:
    """Return ``size`` bytes that depend on ``name`` alone."""
    return CounterSource(name)(size)


def flipped(data: bytes, at: int = 0) -> bytes:
    """Return ``data`` with one bit of byte ``at`` changed."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def write(value: object) -> Json:
    """Return ``value`` as JSON has it: bytes as text, structures as objects."""
    match value:
        case bytes() | memoryview():
            return "0x" + bytes(value).hex()
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {key: write(item) for key, item in value.items()}
        case tuple() | list():
            return [write(item) for item in value]
        case msgspec.Struct():
            return write(msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=describe))
        case _:
            return value


def read(value: Json) -> Any:
    """Return ``value`` with its bytes as bytes again."""
    match value:
        case str() if value.startswith("0x"):
            return bytes.fromhex(value[2:])
        case dict():
            return {key: read(item) for key, item in value.items()}
        case list():
            return [read(item) for item in value]
        case _:
            return value


def write_field(field: object) -> Json:
    """Return a framed field as a ``[type, value]`` pair; unsupported types keep their name."""
    match field:
        case bool():
            return ["boolean", field]
        case bytes():
            return ["bytes", write(field)]
        case str():
            return ["text", field]
        case int():
            return ["integer", str(field)]
        case float():
            return ["float", field.hex()]
        case None:
            return ["none", None]
        case tuple():
            return ["tuple", [write_field(item) for item in field]]
        case list():
            return ["list", [write_field(item) for item in field]]
        case _:
            raise TypeError(type(field))


def read_field(pair: Json) -> Field:
    """Return the field of a ``[type, value]`` pair."""
    kind, value = pair
    made: Any
    match kind:
        case "bytes":
            made = read(value)
        case "integer":
            made = int(value)
        case "float":
            made = float.fromhex(value)
        case "tuple":
            made = tuple(read_field(item) for item in value)
        case "list":
            made = [read_field(item) for item in value]
        case _:
            made = value
    field: Field = made
    return field


def read_roster(members: Json) -> Roster:
    """Return the roster of ``[name, key]`` pairs."""
    return Roster(tuple((silo, bytes(key)) for silo, key in read(members)))


def write_frame(message: Message) -> Json:
    """Return the frame of ``message``."""
    header, payload = wire.encode(message)
    return written_frame(header, None if payload is None else payload[:])


def written_frame(header: bytes, payload: bytes | memoryview | None = None) -> Json:
    """Return a frame as an object; ``payload`` is there only if the message has one."""
    return {"header": write(header)} | ({} if payload is None else {"payload": write(payload)})


def read_frame(frame: Json) -> tuple[bytes, memoryview | None]:
    """Return header and payload of a frame."""
    payload = frame.get("payload")
    if isinstance(payload, dict):
        from tests.vectors import fixed_ckks

        return read(frame["header"]), memoryview(fixed_ckks.made(payload))
    return read(frame["header"]), None if payload is None else memoryview(read(payload))


def write_error(error: SecaggError) -> Json:
    """Return the class of ``error`` by its public name, and whom or what it names."""
    public = next(kind for kind in type(error).__mro__ if kind.__module__ == "secagg.errors")
    named = {
        name: write(getattr(error, name)) for name in ("silo", "rule", "silos") if getattr(error, name, None)
    }
    return {"class": public.__name__} | named


LONG = 400
"""Characters from which on text that stands in a file twice is written once, and named."""


def dump(group: str, content: Json) -> str:
    """Return the text of a vector file."""
    repeated = (text for text, times in Counter(texts_in(content)).items() if times > 1)
    names = {text: f"={at}" for at, text in enumerate(repeated, 1)}
    values = {"values": {name: text for text, name in names.items()}} if names else {}
    whole = {"group": group} | values | renamed(content, names)
    parts = ",\n".join(f'"{key}": {_lines(value)}' for key, value in whole.items())
    return f"{{\n{parts}\n}}\n"


def texts_in(value: Json) -> Iterator[str]:
    """Yield every long text of ``value``, in order."""
    match value:
        case str() if len(value) >= LONG:
            yield value
        case dict():
            for item in value.values():
                yield from texts_in(item)
        case list():
            for item in value:
                yield from texts_in(item)


def renamed(value: Json, names: Mapping[str, str]) -> Json:
    """Return ``value`` with other text in the place of some."""
    match value:
        case str():
            return names.get(value, value)
        case dict():
            return {key: renamed(item, names) for key, item in value.items()}
        case list():
            return [renamed(item, names) for item in value]
        case _:
            return value


def _lines(value: Json) -> str:
    """One case, step or value a line, so that a difference shows which one differs."""
    if isinstance(value, dict) and all(map(_is_name, value)):
        return "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n}"
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"


def _is_name(key: str) -> bool:
    return key.startswith("=")


def difference(old: Json, new: Json) -> Json:
    """Return what ``merge`` must put over ``old`` to get ``new``; None if it has a key less."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    if not old.keys() <= new.keys():
        return None
    changes = {key: difference(old.get(key), value) for key, value in new.items() if old.get(key) != value}
    return (
        None if any(change is None and new[key] is not None for key, change in changes.items()) else changes
    )


def merge(old: Json, changes: Json) -> Json:
    """Return ``old`` with ``changes`` put over it: objects key by key, anything else as a whole."""
    if not isinstance(old, dict) or not isinstance(changes, dict):
        return changes
    return old | {key: merge(old.get(key), value) for key, value in changes.items()}


def load(path: Path) -> Json:
    """Return the content of a vector file, with every value in its place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return renamed(content, content.pop("values", {}))
