"""Random messages and records of every kind, drawn from their declared types.

A field's limits are read from its annotation, so that a new message is tested as soon as it is declared.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec.inspect as mi
import numpy as np
from hypothesis import strategies as st

from secagg.cohort import Cohort, least_threshold
from secagg.fixedpoint import Encoding, Segment
from secagg.messages import FromCoordinator, FromSilo
from secagg.payload import Payload
from secagg.records import SiloRecord

FROM_SILO: tuple[type[Any], ...] = get_args(FromSilo)
FROM_COORDINATOR: tuple[type[Any], ...] = get_args(FromCoordinator)
SILO_RECORDS: tuple[type[Any], ...] = get_args(SiloRecord)


@st.composite
def cohorts(draw: st.DrawFn) -> Cohort:
    n = draw(st.integers(3, 40))
    c = draw(st.integers(1, n - 2))
    return Cohort(n, c, draw(st.integers(least_threshold(n, c), n)), draw(st.integers(2, n - c)))


@st.composite
def encodings(draw: st.DrawFn) -> Encoding:
    names = draw(st.lists(st.sampled_from(("sum", "update", "weight")), min_size=1, max_size=3, unique=True))
    segments = tuple(
        Segment(name, draw(st.integers(1, 99)), draw(st.floats(0.5, 1e3)), draw(st.integers(1, 15)))
        for name in names
    )
    cap = draw(st.floats(0.5, 1e6))
    return Encoding(draw(st.sampled_from([32, 64])), draw(st.integers(1, 40)), segments, cap)


@st.composite
def payloads(draw: st.DrawFn) -> Payload:
    kind = draw(st.sampled_from(["u4", "u8", "f8"]))
    size = np.dtype(kind).itemsize
    raw = draw(st.binary(min_size=size, max_size=8 * size).map(lambda b: b[: len(b) // size * size]))
    return Payload.of(np.frombuffer(raw, kind))


SPECIAL: dict[type[Any], st.SearchStrategy[Any]] = {
    Cohort: cohorts(),
    Encoding: encodings(),
    Payload: payloads(),
}


def of(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for instances of a message, record or part."""
    return _drawn(mi.type_info(kind))


def _drawn(info: mi.Type) -> st.SearchStrategy[Any]:
    match info:
        case mi.DataclassType() | mi.CustomType():
            return SPECIAL[info.cls]
        case mi.StructType():
            return st.builds(info.cls, **{field.name: _drawn(field.type) for field in info.fields})
        case mi.UnionType():
            return st.one_of(*map(_drawn, info.types))
        case mi.VarTupleType():
            least = info.min_length or 0
            return st.lists(_drawn(info.item_type), min_size=least, max_size=least + 3).map(tuple)
        case mi.TupleType():
            return st.tuples(*map(_drawn, info.item_types))
        case _:
            return _scalar(info)


def _scalar(info: mi.Type) -> st.SearchStrategy[Any]:
    match info:
        case mi.LiteralType():
            return st.sampled_from(info.values)
        case mi.StrType():
            return st.text(max_size=info.max_length) if info.pattern is None else st.from_regex(info.pattern)
        case mi.BytesType():
            return st.binary(min_size=info.min_length or 0, max_size=info.max_length)
        case mi.IntType():
            low = -(2**63) if info.ge is None else info.ge
            high = (2**63 if info.lt is None else info.lt) - 1
            return st.integers(low, high if info.le is None else info.le)
        case mi.FloatType():
            return st.floats(
                info.gt if info.ge is None else info.ge,
                info.le if info.lt is None else info.lt,
                exclude_min=info.gt is not None,
                exclude_max=info.lt is not None,
                allow_nan=False,
                allow_infinity=False,
            )
        case mi.NoneType():
            return st.none()
        case _:
            raise NotImplementedError(info)
