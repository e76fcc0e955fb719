"""The training digest stands for every field of the terms."""

from __future__ import annotations

from dataclasses import replace as changed
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from secagg.cohort import Cohort
from secagg.errors import ParameterError
from secagg.fixedpoint import Encoding, Segment
from secagg.terms import MaskingParameters, PlainParameters, Terms, training_digest
from tests.samples import of

encode = msgspec.msgpack.encode
SEGMENTS = (Segment("update", 3, 2.0, 8), Segment("weight", 1, 1.0, 8))
TERMS = Terms(
    federation="f",
    job="j",
    round=2,
    kind="train",
    release=1,
    roster=bytes(32),
    base=b"\1" * 32,
    scheme=MaskingParameters(Cohort(9, 2, 7, 3)),
    encoding=Encoding(32, 9, SEGMENTS, 4.0),
    training=(("epochs", 1), ("rate", 0.5)),
)

CHANGES: list[dict[str, Any]] = [
    {"federation": "g"},
    {"job": "k"},
    {"federation": "fj", "job": ""},
    {"round": 3},
    {"round": 1, "release": 2},
    {"kind": "metrics"},
    {"kind": "sum"},
    {"release": 2},
    {"roster": b"\2" * 32},
    {"base": b"\2" * 32},
    {"roster": b"\1" * 32, "base": bytes(32)},
    {"scheme": PlainParameters()},
    *({"scheme": MaskingParameters(cohort)} for cohort in (Cohort(9, 3, 7, 3), Cohort(9, 2, 8, 3))),
    *({"scheme": MaskingParameters(cohort)} for cohort in (Cohort(9, 2, 7, 2), Cohort(8, 2, 7, 3))),
    {"encoding": Encoding(64, 9, SEGMENTS, 4.0)},
    {"encoding": Encoding(32, 10, SEGMENTS, 4.0)},
    {"encoding": Encoding(32, 9, SEGMENTS, 5.0)},
    {"encoding": Encoding(32, 9, SEGMENTS[::-1], 4.0)},
    {"encoding": Encoding(32, 9, SEGMENTS[:1], 4.0)},
    *(
        {"encoding": Encoding(32, 9, (changed(SEGMENTS[0], **field), SEGMENTS[1]), 4.0)}
        for field in ({"name": "sum"}, {"length": 4}, {"bound": 2.5}, {"fraction_bits": 9})
    ),
    {"training": ()},
    {"training": (("epochs", 1),)},
    {"training": (("epochs", 2), ("rate", 0.5))},
    {"training": (("epochs", 1.0), ("rate", 0.5))},
    {"training": (("epochs", "1"), ("rate", 0.5))},
    {"training": (("epochs", None), ("rate", 0.5))},
    {"training": (("rate", 0.5), ("epochs", 1))},
    {"training": (("epochsrate", 1), ("", 0.5))},
]


def test_every_field_changes_the_digest() -> None:
    digests = [training_digest(replace(TERMS, **change)) for change in CHANGES]
    assert len({training_digest(TERMS), *digests}) == 1 + len(CHANGES)
    # A new field must come with a change in the list above.
    assert set().union(*CHANGES) == set(Terms.__struct_fields__)


def test_equal_terms_have_one_digest() -> None:
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(TERMS), type=Terms)
    assert again == TERMS
    assert training_digest(again) == training_digest(TERMS)
    assert len(training_digest(TERMS)) == 32


@given(of(Terms), of(Terms))
def test_other_terms_have_another_digest(one: Terms, other: Terms) -> None:
    assert (training_digest(one) == training_digest(other)) == (encode(one) == encode(other))


@given(
    st.sampled_from(
        [
            {"round": 0},
            {"release": 0},
            {"round": 2**53},
            {"kind": "other"},
            {"federation": ""},
            {"job": "a b"},
            {"job": "a\n"},
            {"roster": bytes(31)},
            {"base": bytes(33)},
            {"training": (("x" * 65, 1),)},
            {"training": (("x", True),)},
            {"training": (("x", b"1"),)},
            {"scheme": {"type": "none"}},
            {"scheme": {"type": "masking", "cohort": {"n": 3, "c": 0, "t": 3, "k_min": 2}}},
            {"scheme": {"type": "masking", "cohort": {"n": 9, "c": 2, "t": 5, "k_min": 2}}},
        ]
    )
)
def test_terms_out_of_range_do_not_come_off_the_wire(change: dict[str, Any]) -> None:
    fields = msgspec.to_builtins(TERMS, builtin_types=(bytes,)) | change
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=Terms)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_training_value_is_a_finite_number(value: float) -> None:
    with pytest.raises(ParameterError):
        replace(TERMS, training=(("rate", value),))
    for good in (0.0, -1.5, 3, "text", None):
        assert replace(TERMS, training=(("rate", good),)).training == (("rate", good),)
