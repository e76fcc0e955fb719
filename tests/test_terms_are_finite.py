"""A training value without canonical bytes never becomes part of the terms, here or from the wire."""

from __future__ import annotations

import math
import struct

import msgspec
import pytest

from secagg import wire
from secagg.errors import MalformedMessage, ParameterError
from secagg.fixedpoint import plan_sum
from secagg.messages import TrainingOpened
from secagg.terms import PlainParameters, Terms

TERMS = Terms(
    federation="f",
    job="j",
    round=1,
    kind="train",
    release=1,
    roster=bytes(32),
    base=bytes(32),
    scheme=PlainParameters(),
    encoding=plan_sum(1, clip=1.0, cohort=3),
    training=(("learning_rate", 0.37),),
)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_training_values_are_finite(value: float) -> None:
    with pytest.raises(ParameterError, match="NaN or infinite"):
        msgspec.structs.replace(TERMS, training=(("learning_rate", value),))
    header, _ = wire.encode(TrainingOpened(TERMS, 5.0))
    honest, forged = struct.pack(">d", 0.37), struct.pack(">d", value)
    assert header.count(honest) == 1
    assert wire.decode_from_coordinator(header) == TrainingOpened(TERMS, 5.0)
    with pytest.raises(MalformedMessage):
        wire.decode_from_coordinator(header.replace(honest, forged))
