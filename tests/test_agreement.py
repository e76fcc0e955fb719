"""Agreement, derivation and boxes: published answers, separation of keys, refusals."""

from __future__ import annotations

import copy
import hashlib
import hmac
import itertools
import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import MalformedMessage, ParameterError, UsageError
from secagg.hazmat import agreement
from secagg.hazmat.agreement import AgreementKey, check_point, hkdf, seal, unseal
from secagg.hazmat.framing import Field, frame

FIELD_PRIME = 2**255 - 19


def point(u: int) -> bytes:
    return u.to_bytes(32, "little")


def hkdf_by_hand(secret: bytes, info: bytes, length: int, salt: bytes = bytes(32)) -> bytes:
    """RFC 5869 in five lines of HMAC."""
    key = hmac.digest(salt, secret, "sha256")
    block, made = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        made += block
    return made[:length]


# RFC 5869, appendix A, cases 1 to 3 (SHA-256): secret, salt, info, output.
RFC_5869 = (
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        "0b" * 22,
        "",
        "",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
)

# RFC 7748, section 6.1.
ALICE = AgreementKey.from_private_bytes(
    bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
)
BOB = AgreementKey.from_private_bytes(
    bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
)
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
# RFC 7748, section 5.2: scalar, u-coordinate, output. The second u has its unused top bit set.
RFC_7748 = (
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a413",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
)
TOP_BIT_SET = bytes.fromhex("e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493")
# The points of order 1, 2, 4 and 8 on the curve and its twist.
LOW_ORDER = (
    point(0),
    point(1),
    point(FIELD_PRIME - 1),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
)
NOT_CANONICAL = (
    TOP_BIT_SET,
    point(FIELD_PRIME),
    point(FIELD_PRIME + 1),
    point(FIELD_PRIME + 9),
    point(2**255 - 1),
    point(2**256 - 1),
    *(point(int.from_bytes(low, "little") + 2**255) for low in LOW_ORDER),
)


def test_rfc_7748_diffie_hellman() -> None:
    assert ALICE.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert BOB.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    expected = hkdf_by_hand(SHARED, frame("purpose", "a", 1, 48), 48)
    assert ALICE.derive(BOB.public, "purpose", "a", 1, length=48) == expected
    assert BOB.derive(ALICE.public, "purpose", "a", 1, length=48) == expected


@pytest.mark.parametrize(("scalar", "u", "output"), RFC_7748)
def test_rfc_7748_functions(scalar: str, u: str, output: str) -> None:
    key = AgreementKey.from_private_bytes(bytes.fromhex(scalar))
    assert key.derive(bytes.fromhex(u), "p") == hkdf(bytes.fromhex(output), "p")


@pytest.mark.parametrize(("secret", "salt", "info", "output"), RFC_5869)
def test_the_hkdf_of_these_tests_is_the_published_one(secret: str, salt: str, info: str, output: str) -> None:
    made = hkdf_by_hand(
        bytes.fromhex(secret), bytes.fromhex(info), len(output) // 2, bytes.fromhex(salt) or bytes(32)
    )
    assert made.hex() == output


def test_rfc_5869_without_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    secret, _, info, output = RFC_5869[2]
    # The published info is bare; only here is it not a frame.
    monkeypatch.setattr(agreement, "frame", lambda *_: bytes.fromhex(info))
    assert hkdf(bytes.fromhex(secret), "purpose", length=len(output) // 2).hex() == output


@given(secret=st.binary(min_size=1, max_size=80), length=st.integers(1, 200), name=st.text("ab", max_size=9))
def test_info_is_the_frame_of_purpose_context_and_length(secret: bytes, length: int, name: str) -> None:
    made = hkdf(secret, "purpose", name, (1, b"x"), length=length)
    assert made == hkdf_by_hand(secret, frame("purpose", name, (1, b"x"), length), length)


def test_every_purpose_context_and_length_has_its_own_key() -> None:
    contexts: tuple[tuple[Field, ...], ...] = (
        (),
        (1,),
        ("1",),
        (True,),
        (b"1",),
        ((1,),),
        (1, 2),
        (2, 1),
        (12,),
    )
    keys = [
        ALICE.derive(BOB.public, purpose, *context, length=length)[:16]
        for purpose, context, length in itertools.product(("mask", "box", ""), contexts, (16, 32, 64))
    ]
    assert len(set(keys)) == len(keys)


def test_a_third_party_derives_another_key() -> None:
    eve = AgreementKey.generate()
    keys = {ALICE.derive(BOB.public, "p"), ALICE.derive(eve.public, "p"), eve.derive(BOB.public, "p")}
    assert len(keys) == 3


@pytest.mark.parametrize("length", [-1, 0, 255 * 32 + 1])
def test_a_length_hkdf_cannot_give_is_refused(length: int) -> None:
    with pytest.raises(ParameterError):
        hkdf(SHARED, "p", length=length)
    with pytest.raises(ParameterError):
        ALICE.derive(BOB.public, "p", length=length)
    assert len(hkdf(SHARED, "p", length=255 * 32)) == 255 * 32


@pytest.mark.parametrize("public", LOW_ORDER)
def test_points_of_low_order_are_refused(public: bytes) -> None:
    with pytest.raises(MalformedMessage, match="low order"):
        check_point(public)
    with pytest.raises(MalformedMessage, match="low order"):
        ALICE.derive(public, "p")


@pytest.mark.parametrize("public", NOT_CANONICAL)
def test_a_second_encoding_of_a_point_is_refused(public: bytes) -> None:
    with pytest.raises(MalformedMessage, match="canonical"):
        check_point(public)
    with pytest.raises(MalformedMessage, match="canonical"):
        ALICE.derive(public, "p")


@pytest.mark.parametrize("public", [b"", bytes(31), ALICE.public + b"\x00", ALICE.public[1:]])
def test_a_point_of_another_length_is_refused(public: bytes) -> None:
    with pytest.raises(MalformedMessage, match="32 bytes"):
        check_point(public)
    with pytest.raises(MalformedMessage, match="32 bytes"):
        ALICE.derive(public, "p")


def on_the_curve(u: int) -> bool:
    return pow(u**3 + 486662 * u**2 + u, (FIELD_PRIME - 1) // 2, FIELD_PRIME) == 1


def test_other_points_are_accepted_on_the_curve_and_on_its_twist() -> None:
    # X25519 is safe on both, so nobody has to check which one a peer sent.
    low = {int.from_bytes(low, "little") for low in LOW_ORDER}
    usable = [u for u in (*range(2, 40), FIELD_PRIME - 2, FIELD_PRIME - 3) if u not in low]
    assert {on_the_curve(u) for u in usable} == {True, False}
    for u in usable:
        check_point(point(u))
        assert ALICE.derive(point(u), "p") != ALICE.derive(point(u), "q")


@given(private=st.binary(min_size=32, max_size=32))
def test_every_key_s_public_half_is_accepted(private: bytes) -> None:
    key = AgreementKey.from_private_bytes(private)
    check_point(key.public)
    assert key.public == X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    assert key.derive(ALICE.public, "p") == ALICE.derive(key.public, "p")


def test_a_private_key_survives_its_bytes() -> None:
    again = AgreementKey.from_private_bytes(ALICE.private_bytes())
    assert again.public == ALICE.public
    assert again.private_bytes() == ALICE.private_bytes()


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_private_key_has_one_length(size: int) -> None:
    with pytest.raises(ParameterError):
        AgreementKey.from_private_bytes(bytes(size))


def test_keys_are_made_from_the_source_alone() -> None:
    asked: list[int] = []

    def random(size: int) -> bytes:
        asked.append(size)
        return bytes(range(size))

    assert AgreementKey.generate(random).private_bytes() == bytes(range(32))
    assert asked == [32]
    assert AgreementKey.generate().public != AgreementKey.generate().public


def test_the_repr_shows_nothing_and_a_key_is_not_copied_or_pickled() -> None:
    assert f"{ALICE!r} {ALICE!s}" == "AgreementKey() AgreementKey()"
    assert not hasattr(ALICE, "__dict__")
    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError, match="not copied"):
            copying(ALICE)


KEY = hashlib.sha256(b"key").digest()


def test_a_box_is_the_published_aes_256_gcm() -> None:
    # McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test cases 13 and 14.
    assert seal(bytes(32), b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"
    box = "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    assert seal(bytes(32), bytes(16)).hex() == box
    assert unseal(bytes(32), bytes.fromhex(box)) == bytes(16)


@given(plaintext=st.binary(max_size=200), associated=st.binary(max_size=40))
def test_a_box_opens_with_its_key_and_associated_bytes(plaintext: bytes, associated: bytes) -> None:
    box = seal(KEY, plaintext, associated=associated)
    assert len(box) == len(plaintext) + 16
    assert unseal(KEY, box, associated=associated) == plaintext
    for other in (associated + b"\x00", associated[:-1] if associated else b"x"):
        with pytest.raises(MalformedMessage):
            unseal(KEY, box, associated=other)
    with pytest.raises(MalformedMessage):
        unseal(hashlib.sha256(KEY).digest(), box, associated=associated)


def test_every_changed_bit_and_every_cut_of_a_box_is_seen() -> None:
    box = seal(KEY, b"a secret share", associated=b"from north to south")
    for bit in range(8 * len(box)):
        changed = bytearray(box)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MalformedMessage):
            unseal(KEY, bytes(changed), associated=b"from north to south")
    for size in range(len(box)):
        with pytest.raises(MalformedMessage):
            unseal(KEY, box[:size], associated=b"from north to south")


def test_each_of_256_key_bits_closes_the_box() -> None:
    box = seal(KEY, b"a secret share")
    for bit in range(256):
        changed = bytearray(KEY)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MalformedMessage):
            unseal(bytes(changed), box)


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33])
def test_a_sealing_key_has_one_length(size: int) -> None:
    with pytest.raises(ParameterError):
        seal(bytes(size), b"x")
    with pytest.raises(ParameterError):
        unseal(bytes(size), bytes(17))
