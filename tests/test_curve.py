"""Hashing to points and powers of points, against published vectors and against libsodium's own powers."""

from __future__ import annotations

import copy
import os
import sys

import pytest
import rbcl

from secagg.errors import MalformedMessage, MissingExtra, ParameterError, UsageError
from secagg.hazmat import curve
from secagg.hazmat.curve import ORDER, POINT_SIZE, Exponent, check_canonical, hash_to_points

FIELD = 2**255 - 19
TAG = b"test"
# Curve25519's points of low order, and those of its twist (RFC 7748, section 6.1, and Bernstein's list).
LOW_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    FIELD - 1,
]


def point(u: int) -> bytes:
    return u.to_bytes(POINT_SIZE, "little")


# RFC 9497, appendix A.1.1, the first two vectors: BlindedElement is the power of what Input hashes to.
RFC_TAG = b"HashToGroup-OPRFV1-\x00-ristretto255-SHA512"
RFC_BLIND = bytes.fromhex("64d37aed22a27f5191de1c1d69fadb899d8862b58eb4220029e036ec4c1f6706")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"\x00", "609a0ae68c15a3cf6903766461307e5c8bb2f95e7e6550e1ffa2dc99e412803c"),
        (b"\x5a" * 17, "da27ef466870f5f15296299850aa088629945a17d1f5b7f5ff043f76b3c06418"),
    ],
)
def test_a_message_hashes_to_the_element_of_the_standard(message: bytes, expected: str) -> None:
    (element,) = curve.hash_to_ristretto255([message], RFC_TAG)
    assert rbcl.crypto_scalarmult_ristretto255(RFC_BLIND, element).hex() == expected


def test_powers_are_those_that_libsodium_computes_in_ristretto255() -> None:
    # A coset's points differ by low order, so they are compared after one more power, which takes that away.
    messages = [bytes([number]) for number in range(50)]
    exponent, other = Exponent.generate(), Exponent.generate()
    reduced = (int.from_bytes(exponent._raw, "little") % ORDER).to_bytes(POINT_SIZE, "little")
    theirs = b"".join(
        point(pow(int.from_bytes(rbcl.crypto_scalarmult_ristretto255(reduced, element), "little"), -2, FIELD))
        for element in curve.hash_to_ristretto255(messages, TAG)
    )
    ours = exponent.powers(hash_to_points(messages, TAG))
    assert ours != theirs
    assert other.powers(ours) == other.powers(theirs)


def test_every_hashed_point_is_on_the_curve_and_not_on_its_twist() -> None:
    """Guarantee of ``hash_to_points``: half of all u are on the twist."""
    points = hash_to_points([str(number).encode() for number in range(200)], TAG)
    for at in range(0, len(points), POINT_SIZE):
        u = int.from_bytes(points[at : at + POINT_SIZE], "little")
        assert pow(u**3 + 486662 * u**2 + u, (FIELD - 1) // 2, FIELD) == 1


def test_points_depend_on_the_message_and_on_the_tag() -> None:
    first, again, other, tagged = (
        hash_to_points([message], tag)
        for message, tag in [(b"a", b"t"), (b"a", b"t"), (b"b", b"t"), (b"a", b"u")]
    )
    assert first == again
    assert len({first, other, tagged}) == 3


def test_many_messages_have_the_points_of_each() -> None:
    messages = [b"", b"a", b"a", os.urandom(1000)]
    assert hash_to_points(messages, TAG) == b"".join(hash_to_points([each], TAG) for each in messages)
    assert hash_to_points([], TAG) == b""


@pytest.mark.parametrize("tag", [b"", bytes(256)])
def test_a_tag_of_a_wrong_size_is_refused(tag: bytes) -> None:
    with pytest.raises(ParameterError, match="a tag has 1 to 255 bytes"):
        hash_to_points([b"a"], tag)


def test_exponents_commute_and_are_taken_back() -> None:
    """Guarantee of ``Exponent``."""
    points = hash_to_points([b"a", b"b"], TAG)
    for _ in range(20):
        one, other = Exponent.generate(), Exponent.generate()
        raised = one.powers(points)
        assert other.powers(raised) == one.powers(other.powers(points))
        assert one.inverse.powers(other.powers(raised)) == other.powers(points)
        assert one.powers(one.inverse.powers(raised)) == raised
        assert one.inverse.inverse._raw == one._raw


def test_exponents_differ_and_are_what_x25519_takes_as_it_stands() -> None:
    drawn = {Exponent.generate()._raw for _ in range(50)}
    assert len(drawn) == 50
    for raw in drawn:
        assert (raw[0] & 7, raw[31] >> 6) == (0, 1)  # RFC 7748: nothing is left to clamp.


def test_an_exponent_shows_nothing_and_is_not_copied() -> None:
    """Guarantees of ``Exponent``."""
    exponent = Exponent.generate()
    assert repr(exponent) == "Exponent()"
    for copied in (copy.copy, copy.deepcopy):
        with pytest.raises(UsageError, match="not copied or pickled"):
            copied(exponent)


@pytest.mark.parametrize("u", LOW_ORDER)
def test_a_point_of_low_order_is_refused(u: int) -> None:
    good = hash_to_points([b"a"], TAG)
    with pytest.raises(MalformedMessage, match="low order"):
        Exponent.generate().powers(good + point(u) + good)


@pytest.mark.parametrize("u", [FIELD, FIELD + 1, 2**255 - 1, 2**255, 2**255 + 9, 2**256 - 1])
def test_an_encoding_that_is_not_canonical_is_refused(u: int) -> None:
    good = hash_to_points([b"a"], TAG)
    with pytest.raises(MalformedMessage, match="canonical"):
        Exponent.generate().powers(good + point(u))
    check_canonical(point(FIELD - 2) + point(FIELD - 2**8) + point(2**248 - 1))


@pytest.mark.parametrize("size", [1, 31, 33, 65])
def test_half_a_point_is_refused(size: int) -> None:
    with pytest.raises(MalformedMessage, match="whole points"):
        Exponent.generate().powers(bytes(size))


@pytest.mark.parametrize(("module", "package"), [("rbcl", "rbcl"), ("nacl.bindings", "PyNaCl")])
def test_where_a_package_is_missing_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"{package} is not installed.*pip install 'secagg\[psi\]'"):
        Exponent.generate().powers(hash_to_points([b"a"], TAG))
