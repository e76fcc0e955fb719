"""Attack ``bad_points``: advertise a public key with which every agreement has a result that is known.

With a point of low order in place of a mask key, everybody can compute the masks that others share with its
sender; with one in place of a box key, everybody opens the boxes. A second encoding of a good point lets one
key pass for two. The coordinator names the sender; a silo, which cannot know who changed the key, names both.
"""

from __future__ import annotations

from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from secagg import wire
from secagg.errors import FaultySiloOrCoordinator, SecaggError
from secagg.hazmat.agreement import AgreementKey, hkdf
from secagg.hazmat.identity import IdentityKey
from secagg.masking import transcript
from secagg.messages import AdvertiseKeys, FromSilo, KeyBundle, Refused
from secagg.names import SiloId
from secagg.terms import training_digest
from tests.adversary import harness
from tests.federations import Federation, Witness
from tests.test_agreement import LOW_ORDER, NOT_CANONICAL

SENDER = 1
WRONG_SIZE = (b"", bytes(31), b"\x09" * 31, b"\x09" * 33, b"\x09" * 64)
Position = Literal["box", "mask"]
POSITIONS: tuple[Position, ...] = ("box", "mask")


def with_point(
    bundle: KeyBundle,
    position: Position,
    point: bytes,
    *,
    identity: IdentityKey,
    silo: SiloId,
    descriptor: bytes,
) -> KeyBundle:
    """Return the bundle with another key, signed by the silo's own identity."""
    box, mask = (point, bundle.mask) if position == "box" else (bundle.box, point)
    changed = KeyBundle(box, mask, bundle.nonce, b"")
    signature = identity.sign(transcript.ADVERTISE, *transcript.bundle_fields(descriptor, silo, changed))
    return KeyBundle(box, mask, bundle.nonce, signature)


def to_coordinator(position: Position, point: bytes) -> tuple[Federation, Witness, SecaggError | None]:
    """Run a round of five (t = 4) in which one silo advertises ``point``."""
    federation = Federation(5)
    sender = federation.roster.silos[SENDER]
    coordinator = federation.coordinator(seconds=60.0)

    def tamper(message: FromSilo) -> FromSilo:
        if not isinstance(message, AdvertiseKeys):
            return message
        descriptor = transcript.descriptor_digest(
            training_digest(federation.terms), coordinator.attempt, 60.0
        )
        identity = federation.identities[sender]
        return AdvertiseKeys(
            with_point(message.bundle, position, point, identity=identity, silo=sender, descriptor=descriptor)
        )

    federation.silos[sender].tamper = tamper
    try:
        federation.run(coordinator)
    except SecaggError as error:
        return federation, coordinator, error
    return federation, coordinator, None


def to_silos(position: Position, point: bytes) -> None:
    """Forward ``point`` as a lying coordinator that works with its sender does; every silo must refuse it."""
    federation = harness.Federation(5, colluders=["b"])
    liar = harness.Liar(federation)
    liar.train(federation.terms())
    attempt = harness.Attempt(liar, federation.terms())
    attempt.advertise()
    descriptor = transcript.descriptor_digest(
        attempt.opened.training, attempt.opened.attempt, attempt.opened.seconds
    )
    identity = federation.identities["b"]
    bundle = with_point(
        attempt.bundles["b"], position, point, identity=identity, silo="b", descriptor=descriptor
    )
    dealt = attempt.announce_keys({**attempt.bundles, "b": bundle}, to=federation.honest)
    assert dealt == {}, "a silo shares its keys under a bad point"
    for silo in federation.honest:
        (error,) = federation.silos[silo].errors
        assert isinstance(error, FaultySiloOrCoordinator), "a silo does not say who is at fault"
        assert error.silo == "b", "a silo names an honest one"
    replies = [reply for _, _, reply in liar.sent[-len(federation.honest) :]]
    expected = wire.encode(Refused("faulty silo or coordinator", ("b",), 1))
    assert replies == [expected] * len(federation.honest)


def test_bad_points() -> None:
    for position in POSITIONS:
        for point in (*LOW_ORDER, *NOT_CANONICAL, *WRONG_SIZE):
            federation, coordinator, error = to_coordinator(position, point)
            sender = federation.roster.silos[SENDER]
            others = tuple(silo for silo in federation.roster.silos if silo != sender)
            assert error is None, "the round is lost"
            assert coordinator.outcome is not None
            assert coordinator.outcome.survivors == others, "a bad point is accepted"
            assert coordinator.opened.total.tolist() == federation.sum_of(others)
            assert coordinator.losses.keys() == {sender}, "an honest silo is named"
            named = coordinator.losses[sender].startswith(f"faulty: {sender}: ")
            assert named, "a bad point is accepted"  # Its own silo leaves when it sees a key it did not make.
            assert [error for silo in others for error in federation.silos[silo].errors] == []
        for point in (*LOW_ORDER, *NOT_CANONICAL[:3]):
            to_silos(position, point)


def lenient(key: X25519PrivateKey, public: bytes) -> bytes:
    """Agreement that takes every point."""
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return bytes(32)


def nothing(*_: object) -> None:
    """A check that refuses nothing."""


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        ("secagg.hazmat.agreement._exchange", lenient, "a bad point is accepted"),
        ("secagg.masking.checks.check_point", nothing, "the round is lost"),
        ("secagg.masking.coordinator.bundle_fault", nothing, "the round is lost"),
        ("secagg.masking.silo.bundle_fault", nothing, "a silo does not say who|a silo shares its keys"),
    ],
)
def test_bad_points_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any, found: str) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_bad_points()


@pytest.mark.parametrize("point", LOW_ORDER)
def test_what_a_low_order_key_would_open(monkeypatch: pytest.MonkeyPatch, point: bytes) -> None:
    """Control: under agreement that takes every point, anybody computes a victim's mask with its sender."""
    monkeypatch.setattr("secagg.hazmat.agreement._exchange", lenient)
    victim = AgreementKey.generate()
    mask = transcript.pair_stream(victim, point, bytes(32), lower="a", higher="b")
    assert mask == hkdf(bytes(32), "pairwise mask", bytes(32), "a", "b")
