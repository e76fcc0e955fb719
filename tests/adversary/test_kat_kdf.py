"""Attack ``kat_kdf``: bind a derived key, id, commitment or signature to less than the protocol says.

Such a round works as before, and what was meant for one session, silo or kind can be used in another. So
every derivation is written out a second time, ``info`` bytes in full, and held against a whole round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secagg.hazmat import agreement, framing
from secagg.hazmat.agreement import AgreementKey
from secagg.masking import transcript
from secagg.names import WordBits
from secagg.terms import training_digest
from tests.adversary import reference
from tests.adversary.reference import SILOS

INFO = (
    b"s\0\0\0\0\0\0\0\x08secagg/1"
    b"s\0\0\0\0\0\0\0\x0dpairwise mask"
    b"b\0\0\0\0\0\0\0\x20" + bytes(range(32)) + b"s\0\0\0\0\0\0\0\x04west"
    b"s\0\0\0\0\0\0\0\x04east"
    b"i\0\0\0\0\0\0\0\x01\x20"
)
"""The info of one pairwise key: library and version, purpose, round id, both ids, length."""

SELF_INFO = (
    b"s\0\0\0\0\0\0\0\x08secagg/1"
    b"s\0\0\0\0\0\0\0\x09self mask"
    b"b\0\0\0\0\0\0\0\x20" + bytes(range(32, 64)) + b"s\0\0\0\0\0\0\0\x04west"
    b"i\0\0\0\0\0\0\0\x01\x20"
)
"""The info of one silo's own key: library and version, purpose, round id, id, length."""

FROZEN = {
    "pair": "51181d5c9bcabd5ee42678c7502f46e4f5cfb395bb2ac36b9c53fad3b6aacc93",
    "self": "c7a82d6412c1043f01469bbd6b31a4fa3dcb5c583f17a75883dbc00d9e90b426",
    "training": "6a0500587784469b886985c9fa8c4063d6de14b5a01e612adcbac43e4dacdb79",
    "session": "948098e7fdf529cc58fda02a87bdb82d6f07c0e985bb5c2fabfb4f1ec19e7cd4",
    "round": "2114be2167b74b715c3c8ff776c774c6c06ab7f0b81e9082ff3acf164347d0e3",
    "signatures": "3c125d8ab2d4e6fba1d994cbfb5d64a7777510eb13fc84d130772a519477cde0",
    "boxes": "e34a4b0593c27496a1c3dcd8b529ce76ba907a74d3e7a4cc7b0215ea74ba8359",
}
"""Two keys, then SHA-256 of the fixed round with 32-bit words: signatures and boxes in roster order."""


def check_info() -> None:
    """Compare the derivations of both kinds of stream with bytes written by hand."""
    one, other = (AgreementKey.from_private_bytes(reference.secrets(silo).mask) for silo in SILOS[:2])
    agreed = reference.x25519(reference.secrets("west").mask, other.public)
    key = transcript.pair_stream(one, other.public, bytes(range(32)), lower="west", higher="east")
    assert key == reference.hkdf(agreed, INFO), "a derived key is bound to something else"
    assert key.hex() == FROZEN["pair"]
    own = transcript.self_stream(bytes(range(32)), bytes(range(32, 64)), "west")
    assert own == reference.hkdf(bytes(range(32)), SELF_INFO), "a derived key is bound to something else"
    assert own.hex() == FROZEN["self"]
    assert reference.framed("self mask", bytes(range(32, 64)), "west", 32) == SELF_INFO
    assert reference.framed("pairwise mask", bytes(range(32)), "west", "east", 32) == INFO


def check_round(word_bits: WordBits) -> dict[str, str]:
    """Derive the fixed round by hand, compare with what was sent, return what is frozen of it."""
    sent = reference.fixed_round(word_bits)
    assert training_digest(reference.terms(word_bits)) == reference.training(word_bits)
    session = reference.session(word_bits)
    round_id = reference.round_id(session, sent.shares)
    signatures, boxes = b"", b""
    for silo in SILOS:
        bundle = sent.bundles[silo]
        assert (bundle.box, bundle.mask, bundle.nonce, bundle.signature) == reference.bundle(silo, word_bits)

        shared = sent.shares[silo]
        by_peer = {peer: (seed, mask) for peer, seed, mask in shared.boxes}
        assert tuple(by_peer) == tuple(peer for peer in SILOS if peer != silo)
        for peer, sealed in by_peer.items():
            for kind, box in zip(("seed", "mask"), sealed, strict=True):
                assert box[:-16] == reference.box(session, silo, peer, kind), f"the {kind} box of {silo}"
                # The tag is that of the same key, a zero nonce and nothing beside the box.
                opened = AESGCM(reference.box_key(session, silo, peer, kind)).decrypt(bytes(12), box, b"")
                assert opened == b"".join(reference.opening(silo, peer, kind))
        fields = reference.share_set_fields(session, silo, by_peer)
        assert transcript.share_set_fields(session, silo, shared.share_set) == fields
        assert shared.share_set.signature == reference.sign(silo, "share keys", *fields)

        assert sent.inputs[silo].round_id == round_id
        signatures += bundle.signature + shared.share_set.signature
        boxes += b"".join(seed + mask for seed, mask in by_peer.values())
    survivors = tuple(silo for silo in SILOS if silo != reference.LOST)
    for silo in survivors:
        signature = sent.survivor_signatures[silo]
        assert signature == reference.sign(silo, "survivors", round_id, survivors)
        signatures += signature
    return {
        "training": reference.training(word_bits).hex(),
        "session": session.hex(),
        "round": round_id.hex(),
        "signatures": reference.sha256(signatures).hex(),
        "boxes": reference.sha256(boxes).hex(),
    }


def test_kat_kdf() -> None:
    reference.published()
    check_info()
    made = check_round(32)
    assert {"pair": FROZEN["pair"], "self": FROZEN["self"], **made} == FROZEN
    assert check_round(64)["round"] != made["round"]


def without(function: Callable[..., Any], drop: int) -> Callable[..., Any]:
    """``function`` with its positional argument number ``drop`` blanked."""

    def blanked(*arguments: Any, **named: Any) -> Any:
        blank = type(arguments[drop])()
        return function(*arguments[:drop], blank, *arguments[drop + 1 :], **named)

    return blanked


def without_named(function: Callable[..., Any], drop: str) -> Callable[..., Any]:
    return lambda *arguments, **named: function(*arguments, **{**named, drop: ""})


def fields_without(function: Callable[..., tuple[Any, ...]], drop: int) -> Callable[..., tuple[Any, ...]]:
    def shorter(*arguments: Any) -> tuple[Any, ...]:
        fields = function(*arguments)
        return (*fields[:drop], *fields[drop + 1 :])

    return shorter


def without_length(secret: bytes, purpose: str, *context: framing.Field, length: int = 32) -> bytes:
    return reference.hkdf(secret, framing.frame(purpose, *context), length)


MUTANTS: list[tuple[str, Any]] = [
    ("secagg.hazmat.agreement.hkdf", without(agreement.hkdf, 1)),
    ("secagg.hazmat.agreement.hkdf", without_length),
    ("secagg.hazmat.framing.PROTOCOL", "secagg/2"),
    *(
        ("secagg.masking.transcript.descriptor_digest", without(transcript.descriptor_digest, i))
        for i in (0, 1, 2)
    ),
    *(
        ("secagg.masking.transcript.bundle_fields", fields_without(transcript.bundle_fields, i))
        for i in range(5)
    ),
    *(
        ("secagg.masking.transcript.share_set_fields", fields_without(transcript.share_set_fields, i))
        for i in range(5)
    ),
    (
        "secagg.masking.transcript.session_id",
        lambda descriptor, bundles: framing.digest(
            "session", descriptor, tuple((silo, b.box, b.mask) for silo, b in bundles)
        ),
    ),
    ("secagg.masking.transcript.round_id", lambda session, _: framing.digest("round", session)),
    *(("secagg.masking.transcript.seed_commitment", without(transcript.seed_commitment, i)) for i in (0, 1)),
    *(
        ("secagg.masking.transcript.share_commitment", without(transcript.share_commitment, i))
        for i in (0, 1, 2, 3, 5)
    ),
    ("secagg.masking.transcript.box_key", without(transcript.box_key, 2)),
    *(
        ("secagg.masking.transcript.box_key", without_named(transcript.box_key, name))
        for name in ("sender", "recipient", "kind")
    ),
    ("secagg.masking.transcript.pair_stream", without(transcript.pair_stream, 2)),
    *(
        ("secagg.masking.transcript.pair_stream", without_named(transcript.pair_stream, name))
        for name in ("lower", "higher")
    ),
    *(("secagg.masking.transcript.self_stream", without(transcript.self_stream, i)) for i in (1, 2)),
    ("secagg.survivors.SURVIVORS", "void"),
    ("secagg.terms._scheme_fields", lambda _: ()),
    ("secagg.terms._encoding_fields", lambda _: ()),
]


@pytest.mark.parametrize(("defence", "mutant"), MUTANTS)
def test_kat_kdf_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError):
        test_kat_kdf()
