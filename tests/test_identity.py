"""Identities: RFC 8032's answers, and a verifier that says no to everything else."""

from __future__ import annotations

import copy
import hashlib
import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import ParameterError, UsageError
from secagg.hazmat import identity
from secagg.hazmat.framing import Field, frame
from secagg.hazmat.identity import IdentityKey, fingerprint, verify

# RFC 8032, section 7.1, tests 1 to 3: private key, public key, message, signature.
RFC_8032 = (
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
)
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
KEY = IdentityKey.from_private_bytes(bytes(range(32)))
SIGNED: tuple[Field, ...] = ("north", 7, b"\x01\x02", (True, None))
SIGNATURE = KEY.sign("label", *SIGNED)


@pytest.mark.parametrize(("private", "public", "message", "signature"), RFC_8032)
def test_rfc_8032(
    monkeypatch: pytest.MonkeyPatch, private: str, public: str, message: str, signature: str
) -> None:
    key = IdentityKey.from_private_bytes(bytes.fromhex(private))
    assert key.public.hex() == public
    # The published messages are bare bytes; only here does a signature not cover a frame.
    monkeypatch.setattr(identity, "frame", lambda *_: bytes.fromhex(message))
    assert key.sign("label").hex() == signature
    assert verify(key.public, bytes.fromhex(signature), "label")


def test_a_signature_covers_the_frame() -> None:
    Ed25519PublicKey.from_public_bytes(KEY.public).verify(SIGNATURE, frame("label", *SIGNED))
    assert verify(KEY.public, SIGNATURE, "label", *SIGNED)


@pytest.mark.parametrize(
    ("label", "fields"),
    [
        ("Label", SIGNED),
        ("label", SIGNED[:-1]),
        ("label", (*SIGNED, None)),
        ("label", ("north", 7, b"\x01\x02", (1, None))),
        ("label", ("north", 7, "\x01\x02", (True, None))),
        ("label", (SIGNED,)),
    ],
)
def test_another_label_or_field_does_not_verify(label: str, fields: tuple[Field, ...]) -> None:
    assert not verify(KEY.public, SIGNATURE, label, *fields)


def test_another_key_does_not_verify() -> None:
    other = IdentityKey.generate()
    assert not verify(other.public, SIGNATURE, "label", *SIGNED)


def test_every_flipped_bit_is_seen() -> None:
    for bit in range(512):
        changed = bytearray(SIGNATURE)
        changed[bit // 8] ^= 1 << bit % 8
        assert not verify(KEY.public, bytes(changed), "label", *SIGNED), bit


def test_a_signature_has_one_form() -> None:
    scalar = int.from_bytes(SIGNATURE[32:], "little") + GROUP_ORDER
    assert not verify(KEY.public, SIGNATURE[:32] + scalar.to_bytes(32, "little"), "label", *SIGNED)


@given(public=st.binary(max_size=40), signature=st.binary(max_size=70))
def test_verify_never_raises(public: bytes, signature: bytes) -> None:
    assert not verify(public, SIGNATURE, "label", *SIGNED)
    assert not verify(KEY.public, signature, "label", *SIGNED)


@pytest.mark.parametrize("public", [b"", bytes(32), b"\xff" * 32, KEY.public + b"\x00", None, "north", 7])
def test_a_malformed_key_does_not_verify(public: bytes) -> None:
    assert verify(public, SIGNATURE, "label", *SIGNED) is False


@pytest.mark.parametrize("signature", [b"", SIGNATURE[:-1], SIGNATURE + b"\x00", bytes(64), None, "x", 7])
def test_a_malformed_signature_does_not_verify(signature: bytes) -> None:
    assert verify(KEY.public, signature, "label", *SIGNED) is False


@pytest.mark.parametrize("field", [float("nan"), "\ud800", [1]])
def test_a_field_without_bytes_is_refused_to_sign_and_does_not_verify(field: Field) -> None:
    with pytest.raises(ParameterError):
        KEY.sign("label", field)
    assert verify(KEY.public, SIGNATURE, "label", field) is False


def test_keys_are_made_from_the_source_alone() -> None:
    asked: list[int] = []

    def random(size: int) -> bytes:
        asked.append(size)
        return bytes(range(size))

    key = IdentityKey.generate(random)
    assert asked == [32]
    assert key.private_bytes() == bytes(range(32))
    assert key.public == KEY.public
    assert IdentityKey.generate().public != IdentityKey.generate().public


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_private_key_has_one_length(size: int) -> None:
    with pytest.raises(ParameterError):
        IdentityKey.from_private_bytes(bytes(size))


def test_the_repr_shows_the_fingerprint_and_no_secret() -> None:
    shown = f"{KEY!r} {KEY!s} {[KEY]}"
    assert fingerprint(KEY.public) in shown
    assert KEY.private_bytes().hex() not in shown.lower()
    assert not hasattr(KEY, "__dict__")


def test_a_key_is_not_copied_or_pickled() -> None:
    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError, match="not copied"):
            copying(KEY)


def test_fingerprint() -> None:
    shown = fingerprint(KEY.public)
    assert shown.replace(" ", "").lower() == hashlib.sha256(KEY.public).hexdigest()[:32]
    assert [len(group) for group in shown.split(" ")] == [4] * 8
    assert shown == shown.upper()
    assert fingerprint(IdentityKey.generate().public) != shown
