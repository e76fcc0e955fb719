"""Attack ``channel_canary``: keep all that a coordinator sees of a meeting, and search it for what was said.

Three silos meet over real gRPC and mutual TLS, and tell each other canaries in headers and payloads. Then one
of them stops by a rule of its policy. The coordinator keeps every byte that it reads or writes, and its log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from secagg import wire
from secagg.channel.messages import Inside
from secagg.channel.records import Opener, Sealer
from secagg.conversation import Side, hear, say
from secagg.errors import PolicyRefused
from secagg.messages import Part
from secagg.names import SiloId
from secagg.payload import Payload
from silo.meeting import meet
from tests.meetings import Files, Relay, run

SILOS = ("north", "south", "west")
TAG = bytes(16)


class Told(Part, frozen=True, tag=True):
    text: str
    values: Payload


def canary(sender: SiloId, to: SiloId) -> str:
    return f"canary of {sender} for {to}"


def tells(name: SiloId, *, stops: bool) -> Side[list[str]]:
    others = tuple(other for other in SILOS if other != name)
    for other in others:
        values = np.frombuffer(f"payload {canary(name, other)}".encode(), np.uint8)
        yield from say(other, Told(f"header {canary(name, other)}", Payload.of(np.tile(values, 100))))
    heard = []
    for other in others:
        told = yield from hear(other, Told)
        assert canary(other, name).encode() in told.values.array().tobytes()
        heard.append(told.text)
    if stops and name == "west":
        raise PolicyRefused("largest set", f"canary of {name}")
    return heard


@contextmanager
def logging_to(seen: list[bytes]) -> Iterator[None]:
    """Keep what the coordinator logs; silos, which log in the same process here, may name what is theirs."""

    def keep(logger: Any, _: str, event: Any) -> Any:
        if logger == ("coordinator",):
            seen.append(repr(event).encode())
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], logger_factory=lambda *name: name)
    try:
        yield
    finally:
        structlog.configure(**before)


async def meeting(files: Files, *, stops: bool) -> bytes:
    """Let all meet, and return all that the coordinator saw, and what it logged."""
    relay = Relay(files)
    with logging_to(relay.seen):
        async with relay.serving():
            ends = await asyncio.gather(
                *(
                    meet(files.config(silo), "m", SILOS, lambda silo=silo: tells(silo, stops=stops))  # type: ignore[misc]  # Its default.
                    for silo in SILOS
                ),
                return_exceptions=True,
            )
    heard = [end for end in ends if isinstance(end, list)]
    assert len(heard) == (0 if stops else 3)
    assert all(canary(other, "north") in " ".join(heard[0]) for other in SILOS[1:] if heard)
    return b"".join(relay.seen)


def attack(folder: Path) -> None:
    files = Files.write(folder / "federation", SILOS)
    for stops in (False, True):
        seen = run(lambda stops=stops: meeting(files, stops=stops))  # type: ignore[misc]  # Its default.
        assert b"meeting over" in seen, "no log was kept"
        assert b"north" in seen, "nothing was kept"
        assert len(seen) > 3000
        assert b"canary" not in seen, "the coordinator reads what silos say"
        assert b"largest set" not in seen, "the coordinator reads why a silo stops"


def test_channel_canary(tmp_path: Path) -> None:
    attack(tmp_path)


def in_clear(self: Sealer, message: Inside) -> bytes:
    return wire.encode(message)[0] + TAG


def as_it_is(self: Opener, record: bytes) -> Inside:
    message: Inside = wire.decode_as(record[: -len(TAG)], None, Inside)
    return message


def test_channel_canary_mutant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("secagg.channel.records.Opener.open", as_it_is)
    monkeypatch.setattr("secagg.channel.records.Sealer.seal", in_clear)
    with pytest.raises(AssertionError, match="reads what silos say"):
        attack(tmp_path)
