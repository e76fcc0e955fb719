"""Cases for numbers: encodings, encoded and decoded vectors, plans, the weighted mean."""

from __future__ import annotations

import numpy as np

from secagg.fixedpoint import Encoding, Segment
from secagg.weighting import plan_mean
from tests.vectors.cases import Group
from tests.vectors.notation import Json


def written(encoding: Encoding) -> Json:
    segments = [(s.name, s.length, s.bound, s.fraction_bits) for s in encoding.segments]
    given = {"word_bits": encoding.word_bits, "cohort": encoding.cohort, "segments": segments}
    return given | {"weight_cap": encoding.weight_cap}


NARROW = Encoding(32, 4, (Segment("x", 4, 8.0, 2), Segment("y", 1, 1.0, 20)))
WIDE = Encoding(64, 4, (Segment("x", 3, 8.0, 40),))
MEAN = plan_mean(
    2, clip=4.0, cohort=4, weight_cap=100.0, least_total_weight=100.0, metrics=("loss",), metric_bound=10.0
)


def numbers() -> Group:
    group = Group("Fixed point: encodings that cannot wrap, vectors, sums, plans, the weighted mean.")
    _encodings(group)
    _vectors(group)
    _plans(group)
    _means(group)
    return group


def _encodings(group: Group) -> None:
    group.passes("an encoding of 32 bits", "encoding", **written(NARROW))
    group.passes("an encoding of 64 bits", "encoding", **written(WIDE))
    full = {"word_bits": 32, "cohort": 1, "weight_cap": 1.0, "segments": [("x", 1, 2.0**31 - 1, 0)]}
    group.passes("the largest bound", "encoding", **full)

    def fails(name: str, **changes: object) -> None:
        group.fails(name, "encoding", "ParameterError", **(full | changes))

    fails("a bound one step too large", segments=[("x", 1, 2.0**31, 0)])
    fails("a cohort one too large", cohort=2)
    fails("64 bits, beyond 2^53", word_bits=64, segments=[("x", 1, 2.0**53 + 2, 0)])
    fails("16 bits", word_bits=16)
    fails("no cohort", cohort=0)
    fails("no segments", segments=[])
    fails("one name twice", segments=[("x", 1, 1.0, 0), ("x", 1, 1.0, 0)])
    fails("an empty segment", segments=[("x", 0, 1.0, 0)])
    fails("a bound of 0", segments=[("x", 1, 0.0, 0)])
    fails("an infinite bound", segments=[("x", 1, "inf", 0)])
    fails("a bound that is NaN", segments=[("x", 1, "nan", 0)])
    fails("a bound of half a step", segments=[("x", 1, 0.5, 0)])
    fails("a step below 2^-512", segments=[("x", 1, 1.0, 513)])
    fails("a weight cap of 0", weight_cap=0.0)


def _vectors(group: Group) -> None:
    given = {"encoding": written(NARROW)}
    good = {"x": [0.125, 0.375, -0.375, -8.0], "y": [1.0]}
    group.passes("halves are rounded to even", "encode", **given, values=good)
    group.passes("a factor", "encode", **given, values=good, factors={"x": 0.5})
    group.passes("64 bits", "encode", encoding=written(WIDE), values={"x": [1.5, -1.5, 2.0**-41]})

    def fails(name: str, **changes: object) -> None:
        factors = {"factors": changes.pop("factors")} if "factors" in changes else {}
        group.fails(name, "encode", "InputRefused", **given, values=good | changes, **factors)

    fails("NaN", x=[0.0, 0.0, 0.0, "nan"])
    fails("infinity", x=[0.0, "inf", 0.0, 0.0])
    fails("minus infinity", x=[0.0, "-inf", 0.0, 0.0])
    fails("just beyond the bound", x=[0.0, 0.0, 0.0, float(np.nextafter(8.0, 9.0))])
    fails("an entry less", x=[0.0, 0.0, 0.0])
    fails("an entry more", y=[0.0, 0.0])
    fails("a segment that is not there", z=[0.0])
    fails("a factor above 1", factors={"x": 1.5})
    fails("a negative factor", factors={"x": -0.5})
    fails("a factor of no segment", factors={"z": 0.5})
    group.fails("a segment is missing", "encode", "InputRefused", **given, values={"x": good["x"]})

    total = np.array([1, 2**32 - 1, 4, 0, 2**20], np.uint32).tobytes()
    group.passes("a sum", "decode", **given, total=total)
    group.fails("a sum of another length", "decode", "UsageError", **given, total=total[:-4])


def _plans(group: Group) -> None:
    def plan(name: str, **arguments: object) -> None:
        group.passes(name, "plan", of="sum", arguments={"length": 3, "clip": 8.0, "cohort": 4} | arguments)

    def fails(name: str, **arguments: object) -> None:
        given = {"length": 3, "clip": 8.0, "cohort": 4} | arguments
        group.fails(name, "plan", "ParameterError", of="sum", arguments=given)

    plan("the finest step of 32 bits")
    plan("precision that needs 64 bits", precision=1e-9)
    fails("a step too fine for 32 bits", word_bits=32, fraction_bits=27)
    fails("precision that 32 bits lack", word_bits=32, precision=1e-9)
    fails("precision that 64 bits lack", precision=1e-17)
    fails("a clip of 0", clip=0.0)
    fails("no entries", length=0)
    fails("a cohort of 0", cohort=0)


def _means(group: Group) -> None:
    given: dict[str, object] = {"encoding": written(MEAN), "update": [1.0, -5.0], "weight": 25.0}
    given |= {"metrics": {"loss": 0.75}, "evaluation_weight": 50.0}
    one = group.passes("one silo's share of a mean", "encode_weighted", **given)
    group.passes("a metric that saturates", "encode_weighted", **(given | {"metrics": {"loss": 1000.0}}))
    group.passes("no evaluation", "encode_weighted", **(given | {"metrics": {}, "evaluation_weight": 0.0}))

    def fails(name: str, **changes: object) -> None:
        group.fails(name, "encode_weighted", "InputRefused", **(given | changes))

    fails("a weight over the cap", weight=100.5)
    fails("a negative weight", weight=-1.0)
    fails("a weight that is NaN", weight="nan")
    fails("an evaluation weight over the cap", evaluation_weight=1000.0)
    fails("a metric that is NaN", metrics={"loss": "nan"})
    fails("a metric too many", metrics={"loss": 1.0, "accuracy": 1.0})
    fails("no metrics", metrics={})
    fails("no update", update=None)
    fails("an update with NaN", update=[1.0, "nan"])
    fails("an update that is infinite", update=["inf", 1.0])
    fails("an update of another length", update=[1.0])

    group.passes("a mean", "decode_weighted", encoding=written(MEAN), total=one, silos=1)
    zeros = bytes(4 * MEAN.length)
    group.fails(
        "no weight at all", "decode_weighted", "RoundAborted", encoding=written(MEAN), total=zeros, silos=1
    )
    group.fails("no silos", "decode_weighted", "UsageError", encoding=written(MEAN), total=one, silos=0)
    group.fails(
        "more silos than the cohort",
        "decode_weighted",
        "UsageError",
        encoding=written(MEAN),
        total=one,
        silos=5,
    )
