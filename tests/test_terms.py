"""The training digest stands for every field of the terms."""

from __future__ import annotations

from dataclasses import replace as changed
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given
from msgspec.structs import replace

from secagg.cohort import Cohort
from secagg.errors import ParameterError
from secagg.fixedpoint import Encoding, Segment
from secagg.terms import (
    LocalNoise,
    MaskingParameters,
    PlainParameters,
    PrivacyParameters,
    RecordNoise,
    SiloNoise,
    Terms,
    training_digest,
)
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

SILO = SiloNoise(l2_clip_norm=1.0, share=8.0, delta=0.25)
RECORD = RecordNoise(l2_clip_norm=1.0, share=8.0, sampling_rate=0.5, batch=16.0, delta=0.25)
LOCAL = LocalNoise(l2_clip_norm=1.0, noise_multiplier=8.0, sampling_rate=0.5, steps=16, delta=0.25)
NOISES: tuple[PrivacyParameters, ...] = (SILO, RECORD, LOCAL)

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
    *({"privacy": noise} for noise in NOISES),
    # One after the other, each field of each kind.
    *(
        {"privacy": replace(noise, **{name: 4 if name == "steps" else 0.125 if name == "delta" else other})}
        for noise in NOISES
        for name, other in dict.fromkeys(noise.__struct_fields__, 4.0).items()
        if name != "sampling_rate"
    ),
    *({"privacy": replace(noise, sampling_rate=0.25)} for noise in (RECORD, LOCAL)),
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


@pytest.mark.parametrize(
    "change",
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
        *(
            {"privacy": msgspec.to_builtins(noise) | change}
            for noise, *changes in (
                (SILO, {"share": 3.999}),
                (RECORD, {"share": 3.999}, {"batch": 0.0}, {"batch": float("inf")}),
                (LOCAL, {"noise_multiplier": 0.0}, {"steps": 0}, {"steps": 2**53}),
            )
            for change in (
                *changes,
                {"type": "none"},
                {"l2_clip_norm": 0.0},
                {"l2_clip_norm": float("inf")},
                {"l2_clip_norm": float("nan")},
                {"delta": 0.0},
                {"delta": 1.0},
            )
        ),
        *(
            {"privacy": msgspec.to_builtins(noise) | {"sampling_rate": rate}}
            for noise in (RECORD, LOCAL)
            for rate in (0.0, 1.0000001, float("nan"))
        ),
        {"privacy": {}},
        {"privacy": False},
    ],
    ids=map(str, count()),
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_noise_is_told_in_finite_numbers(noise: PrivacyParameters, value: float) -> None:
    for name in noise.__struct_fields__:
        with pytest.raises(ParameterError):
            replace(TERMS, privacy=replace(noise, **{name: value}))
    assert replace(TERMS, privacy=noise).privacy == noise


def test_the_kinds_of_noise_differ_where_their_numbers_do_not() -> None:
    """Record and local noise have as many numbers: the kind is one of the fields."""
    numbers = 1.0, 8.0, 0.5, 16, 0.25
    digests = {training_digest(replace(TERMS, privacy=kind(*numbers))) for kind in (RecordNoise, LocalNoise)}
    assert len(digests) == 2
