"""Frames: no two lists of fields share one, shown by reading them back."""

from __future__ import annotations

import hashlib
import itertools
import struct
from enum import IntEnum

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import ParameterError
from secagg.hazmat.framing import PROTOCOL, Field, digest, frame

scalars: st.SearchStrategy[Field] = st.one_of(
    st.binary(max_size=40),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.integers(),
    st.integers(-(2**80), 2**80),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
)
fields: st.SearchStrategy[Field] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=12
)


def parse(data: bytes) -> list[Field]:
    """Read fields back, sharing no code with ``frame``."""
    found: list[Field] = []
    while data:
        tag, size = data[:1], int.from_bytes(data[1:9], "big")
        body, data = data[9 : 9 + size], data[9 + size :]
        assert len(body) == size
        match tag:
            case b"b":
                found.append(body)
            case b"s":
                found.append(body.decode())
            case b"i":
                found.append(int.from_bytes(body, "big", signed=True))
            case b"f":
                found.append(struct.unpack(">d", body)[0])
            case b"?":
                found.append({b"\x00": False, b"\x01": True}[body])
            case b"0":
                assert body == b""
                found.append(None)
            case b"(":
                found.append(tuple(parse(body)))
            case _:
                pytest.fail(f"unknown tag {tag!r}")
    return found


def shape(field: Field) -> object:
    """Type and value, so that 1, True and 1.0 differ, and 0.0 differs from -0.0."""
    match field:
        case tuple():
            return ("tuple", *map(shape, field))
        case float():
            return ("float", struct.pack(">d", field))
        case _:
            return (type(field).__name__, field)


@given(label=st.text("abc/-", max_size=8), values=st.lists(fields, max_size=5))
def test_a_frame_reads_back_to_its_fields_and_types(label: str, values: list[Field]) -> None:
    # An encoding that can be read back is injective.
    back = parse(frame(label, *values))
    assert [shape(field) for field in back] == [shape(field) for field in (PROTOCOL, label, *values)]


@given(first=st.lists(fields, max_size=4), second=st.lists(fields, max_size=4))
def test_frames_are_equal_only_for_equal_fields(first: list[Field], second: list[Field]) -> None:
    same = list(map(shape, first)) == list(map(shape, second))
    assert (frame("x", *first) == frame("x", *second)) is same


CONFUSABLE: tuple[tuple[Field, ...], ...] = (
    (),
    ((),),
    (((),),),
    ((), ()),
    (1,),
    (True,),
    (1.0,),
    ("1",),
    (b"1",),
    (b"\x01",),
    ("\x01",),
    ((1,),),
    (((1,),),),
    (0,),
    (False,),
    (0.0,),
    (-0.0,),
    (None,),
    ("",),
    (b"",),
    (b"\x00",),
    (-1,),
    (255,),
    (b"\xff",),
    (2**63,),
    (-(2**63),),
    (256, 1),
    (1, 256),
    ((1, 256),),
    ((1,), 256),
    ("ab", "c"),
    ("a", "bc"),
    ("abc",),
    (("ab", "c"),),
    (b"ab", b"c"),
    (b"a", b"bc"),
    (float("inf"),),
    (float("-inf"),),
    (5e-324,),
    ("é",),
    ("e\u0301",),  # The same letter in another Unicode form is another name.
    (frame("x", 1),),
)


def test_confusable_fields_have_distinct_frames() -> None:
    for first, second in itertools.combinations(CONFUSABLE, 2):
        assert frame("x", *first) != frame("x", *second), (first, second)


def test_the_label_is_not_a_field() -> None:
    assert len({frame("a", "b"), frame("ab"), frame("b", "a"), frame("a"), frame("", "a", "b")}) == 5


def test_the_bytes_are_as_specified() -> None:
    def part(tag: str, body: bytes) -> bytes:
        return tag.encode() + len(body).to_bytes(8, "big") + body

    made = frame("label", b"\x07", "é", -129, 1.5, True, None, (127, 128, ()))
    assert made == b"".join(
        (
            part("s", b"secagg/1"),
            part("s", b"label"),
            part("b", b"\x07"),
            part("s", b"\xc3\xa9"),
            part("i", b"\xff\x7f"),
            part("f", bytes.fromhex("3ff8000000000000")),
            part("?", b"\x01"),
            part("0", b""),
            part("(", part("i", b"\x7f") + part("i", b"\x00\x80") + part("(", b"")),
        )
    )
    assert digest("label", 1) == hashlib.sha256(frame("label", 1)).digest()


class Kind(IntEnum):
    SEED = 1


def test_subtypes_are_framed_as_the_type_they_are() -> None:
    assert frame("x", Kind.SEED, np.float64(0.5)) == frame("x", 1, 0.5)


@pytest.mark.parametrize(
    "field",
    [
        float("nan"),
        "\ud800",
        [1],
        {1: 2},
        bytearray(b"a"),
        np.int64(1),
        np.float32(1.0),
        np.bool_(True),
        (1, (2, float("nan"))),
        ("a", ["b"]),
    ],
)
def test_what_has_no_canonical_bytes_is_refused(field: Field) -> None:
    with pytest.raises(ParameterError):
        frame("x", field)
    with pytest.raises(ParameterError):
        digest("x", field)
