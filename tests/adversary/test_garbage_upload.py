"""Attack ``garbage_upload``: a silo sends anything at all in place of its masked vector.

What has the wrong form names its sender, and the round goes on without it. A vector of the right form cannot
be told from a masked one; it makes the count entry of the sum wrong, so no model is written, nobody is named
for what nobody can prove, and no second set of silos is ever opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from secagg import wire
from secagg.errors import FaultyCoordinator, RoundAborted, SecaggError
from secagg.messages import MaskedInput, SumOpened
from secagg.payload import Frame, Payload
from secagg.records import SetSigned, decode_silo_record
from tests.federations import Federation, TamperedSilo, Witness

Forgery: TypeAlias = Callable[[MaskedInput], Frame]
Change: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]

SENDER = 2
GARBAGE = np.random.default_rng(5)


class Garbler(TamperedSilo):
    """A silo that replaces the frame of its masked input, or hears another sum than the one announced.

    Attributes:
        frame: masked input -> the frame to send instead.
        heard: opened total -> the one that arrives.
        sent: every masked input that it should have sent.
    """

    frame: Forgery = staticmethod(wire.encode)
    heard: Change | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sent: list[MaskedInput] = []

    def deliver(self, frame: Frame) -> Frame | None:
        message = wire.decode_from_coordinator(*frame)
        if self.heard is not None and isinstance(message, SumOpened):
            total = Payload.of(self.heard(message.total.array().copy()))
            frame = wire.encode(msgspec.structs.replace(message, total=total))
        reply = super().deliver(frame)
        message_sent = None if reply is None else wire.decode_from_silo(*reply)
        if isinstance(message_sent, MaskedInput):
            self.sent.append(message_sent)
            return self.frame(message_sent)
        return reply


def with_vector(change: Change) -> Forgery:
    return lambda message: wire.encode(
        MaskedInput(message.round_id, Payload.of(change(message.vector.array().copy())))
    )


def with_bytes(
    change: Callable[[bytes, bytes], tuple[bytes, bytes | None]],
) -> Forgery:
    def forge(message: MaskedInput) -> Frame:
        header, payload = wire.encode(message)
        assert payload is not None
        header, changed = change(header, bytes(payload[:]))
        return header, None if changed is None else memoryview(changed)

    return forge


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


WRONG_FORM: dict[str, Forgery] = {
    "random bytes": with_bytes(lambda h, p: (GARBAGE.bytes(len(h)), GARBAGE.bytes(len(p)))),
    "nothing": with_bytes(lambda _h, _p: (b"", b"")),
    "short header": with_bytes(lambda h, p: (h[:-1], p)),
    "other version": with_bytes(lambda h, p: (b"\x02" + h[1:], p)),
    "no payload": with_bytes(lambda h, _: (h, None)),
    "half a payload": with_bytes(lambda h, p: (h, p[: len(p) // 2])),
    "more payload": with_bytes(lambda h, p: (h, p + b"\0" * 4)),
    "flipped payload": with_bytes(lambda h, p: (h, flipped(p))),
    "one entry less": with_vector(lambda v: v[:-1].copy()),
    "one entry more": with_vector(lambda v: np.append(v, v[:1])),
    "one entry": with_vector(lambda v: v[:1].copy()),
    "wider words": with_vector(lambda v: v.astype(np.uint64)),
    "same bytes, wider words": with_vector(lambda v: v.view(np.uint64)),
    "floats": with_vector(lambda v: v.astype(np.float64)),
    "other round": lambda m: wire.encode(MaskedInput(flipped(m.round_id), m.vector)),
}

RIGHT_FORM: dict[str, Change] = {
    "random": lambda v: GARBAGE.integers(0, 2**32, v.size, dtype=np.uint32),
    "2**31 added": lambda v: v + np.uint32(2**31),
    "zeros": np.zeros_like,
    "counted twice": lambda v: v + np.eye(1, v.size, v.size - 1, dtype=np.uint32)[0],
    "in clear": lambda v: np.append(np.arange(v.size - 1, dtype=np.uint32), np.uint32(1)),
    "reversed": lambda v: v[::-1].copy(),
}


def attack(frame: Forgery) -> tuple[Federation, Witness, SecaggError | None]:
    """Run a round of five (t = 4) in which one silo sends its frames through ``frame``."""
    federation = Federation(5)
    sender = federation.roster.silos[SENDER]
    garbler = Garbler(federation.builder(sender))
    garbler.frame = frame
    federation.silos[sender] = garbler
    return run(federation)


def run(federation: Federation) -> tuple[Federation, Witness, SecaggError | None]:
    coordinator = federation.coordinator()
    try:
        federation.run(coordinator)
    except SecaggError as error:
        return federation, coordinator, error
    return federation, coordinator, None


def under_earlier_masks() -> Forgery:
    """The vector of the attempt before, under masks that nobody else has now; zeros in the first one."""
    earlier = [Payload.of(np.zeros(6, np.uint32))]

    def forge(message: MaskedInput) -> Frame:
        earlier.append(message.vector)
        return wire.encode(MaskedInput(message.round_id, earlier[-2]))

    return forge


def check_halt(name: str, frame: Forgery) -> None:
    federation, coordinator, error = attack(frame)
    assert type(error) is RoundAborted, f"{name}: a wrong sum was opened"
    assert coordinator.outcome is None
    assert not any(work.applied for work in federation.work.values()), f"{name}: a model was written"
    assert coordinator.losses == {}, f"{name}: somebody is named"
    assert coordinator.excluded == frozenset()
    for silo in federation.silos.values():
        records = [decode_silo_record(line) for line in silo.journal]
        sets = [record.survivors for record in records if isinstance(record, SetSigned)]
        assert len(sets) == coordinator.attempt
        assert set(sets) == {federation.roster.silos}, f"{name}: a second set was signed"


def check_announced(change: Change) -> None:
    """A silo takes no sum whose count entry is wrong, whoever made it so."""
    federation = Federation(5)
    victim = federation.roster.silos[SENDER]
    garbler = Garbler(federation.builder(victim))
    garbler.heard = change
    federation.silos[victim] = garbler
    _, coordinator, error = run(federation)
    assert error is None
    assert coordinator.outcome is not None
    assert federation.work[victim].applied == [], "a silo took a garbled sum"
    assert [type(error) for error in garbler.errors] == [FaultyCoordinator]


def test_garbage_upload() -> None:
    for name, frame in WRONG_FORM.items():
        federation, coordinator, error = attack(frame)
        sender = federation.roster.silos[SENDER]
        others = tuple(silo for silo in federation.roster.silos if silo != sender)
        assert error is None, f"{name}: the round is lost"
        assert coordinator.outcome is not None
        assert coordinator.outcome.survivors == others, f"{name}: garbage was added"
        assert coordinator.opened.total.tolist() == federation.sum_of(others), f"{name}: garbage was added"
        assert coordinator.losses.keys() == {sender}, f"{name}: the wrong silo is named"
        assert coordinator.losses[sender].startswith(f"faulty: {sender}: "), f"{name}: nobody is named"
        assert coordinator.attempt == 1
        assert [len(federation.work[silo].applied) for silo in others] == [1] * 4

    for name, change in RIGHT_FORM.items():
        check_halt(name, with_vector(change))
    check_halt("earlier masks", under_earlier_masks())
    for change in RIGHT_FORM.values():
        check_announced(change)


def test_a_poisoned_vector_is_not_seen() -> None:
    """Limit: who leaves the count alone is counted, as a silo with other data would be; nothing can tell."""
    poison = np.array([2**31, 0, 0, 5, 0, 0], np.uint32)
    federation, coordinator, error = attack(with_vector(lambda v: v + poison))
    assert error is None
    assert coordinator.outcome is not None
    total = np.array(federation.sum_of(federation.roster.silos), np.uint32)
    assert coordinator.opened.total.tolist() == (total + poison[:-1]).tolist()


def accept(*_: object) -> bool:
    return True


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        ("secagg.masking.coordinator.input_fault", lambda *_: None, "the round is lost"),
        ("secagg.masking.coordinator.MaskingCoordinator._check_round", accept, "garbage was added"),
        ("secagg.masking.coordinator.count_matches", accept, "a wrong sum was opened"),
        ("secagg.masking.silo.count_matches", accept, "a silo took a garbled sum"),
        (
            "secagg.wire._attach",
            lambda value, payload: Payload.over(
                value[0], value[1], payload or memoryview(b""), digest=value[2]
            ),
            "garbage was added|the round is lost",
        ),
    ],
)
def test_garbage_upload_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any, found: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_garbage_upload()
