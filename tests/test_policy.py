"""A silo's floors: each refuses by its name, one step below, and accepts at the floor."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from secagg.cohort import Cohort
from secagg.errors import ParameterError, PolicyRefused
from secagg.fixedpoint import Encoding, Segment
from secagg.policy import Policy
from secagg.terms import LocalNoise, MaskingParameters, PlainParameters, RecordNoise, SiloNoise, Terms
from tests.federations import Federation, roster_of

N = 7
ROSTER, _ = roster_of(N)
TERMS = Federation(N).terms


def masking(c: int = 2, t: int = 5, k_min: int = 2, n: int = N) -> Terms:
    return replace(TERMS, scheme=MaskingParameters(Cohort(n, c, t, k_min)))


def encoded(name: str = "update", bound: float = 2.0, cohort: int = N) -> Terms:
    return replace(TERMS, encoding=Encoding(32, cohort, (Segment(name, 3, bound, 8),)))


def capped(weight_cap: float) -> Terms:
    encoding = Encoding(32, N, (Segment("update", 3, 2.0, 8),), weight_cap)
    return replace(TERMS, kind="train", encoding=encoding)


SILO = SiloNoise(2.0, 8.0, 1e-5)
RECORD = RecordNoise(2.0, 8.0, 0.5, 16.0, 1e-5)
LOCAL = LocalNoise(2.0, 1.0, 0.5, 4, 1e-5)
CAP = "max_l2_clip_norm"
PLAIN, PLAINLY = frozenset({"plain"}), PlainParameters()


def noised(noise: SiloNoise | RecordNoise | LocalNoise, terms: Terms = TERMS, **changes: Any) -> Terms:
    return replace(terms, privacy=noise, **changes)


@pytest.mark.parametrize(
    ("policy", "good", "bad", "rule"),
    [
        ({}, TERMS, replace(TERMS, roster=bytes(32)), "roster"),
        ({}, TERMS, replace(TERMS, release=2), "release"),
        ({}, TERMS, replace(TERMS, scheme=PlainParameters()), "scheme"),
        ({"schemes": frozenset({"plain"})}, replace(TERMS, scheme=PlainParameters()), TERMS, "scheme"),
        ({}, TERMS, masking(n=8, t=6), "cohort"),
        ({}, TERMS, masking(n=6), "cohort"),
        ({"min_silos": N}, TERMS, None, ""),
        ({"min_silos": N + 1}, None, TERMS, "min_silos"),
        ({}, masking(c=2), masking(c=1), "colluders"),
        ({"colluders": 3}, masking(c=3, t=6), masking(c=2, t=6), "colluders"),
        ({"colluders": 1}, masking(c=1), None, ""),
        ({"min_threshold": 6}, masking(t=6), masking(t=5), "threshold"),
        ({"min_threshold": 3}, masking(t=5), None, ""),
        ({"min_honest": 4}, masking(k_min=4), masking(k_min=3), "min_honest"),
        ({"max_clip": 2.0}, encoded(bound=2.0), encoded(bound=2.0001), "max_clip"),
        ({"max_clip": 2.0}, encoded("weight", 9.0), encoded("sum", 9.0), "max_clip"),
        ({}, capped(100_000.0), capped(99_999.0), "min_weight_cap"),
        ({"min_weight_cap": None}, capped(1.0), None, ""),
        ({"min_weight_cap": 1000.0}, capped(1000.0), capped(999.0), "min_weight_cap"),
        ({"min_weight_cap": 1000.0}, replace(capped(999.0), kind="sum"), None, ""),
        ({}, encoded(cohort=N), encoded(cohort=N - 1), "encoding"),
        ({}, encoded(cohort=N + 1), None, ""),
        *(({}, noised(noise, release=2), replace(TERMS, release=2), "release") for noise in (SILO, RECORD)),
        ({}, noised(SILO, release=9), replace(TERMS, release=9), "release"),
        # The noise of a silo's own training is not in the sum: a second one would tell more of its peers.
        ({}, noised(LOCAL), noised(LOCAL, release=2), "release"),
        *(({"require_privacy": True}, noised(noise), TERMS, "privacy") for noise in (SILO, RECORD, LOCAL)),
        ({"require_privacy": False}, TERMS, None, ""),
        *(
            ({"max_l2_clip_norm": 2.0}, noised(noise), noised(replace(noise, l2_clip_norm=2.5)), CAP)
            for noise in (SILO, RECORD, LOCAL)
        ),
        ({"max_l2_clip_norm": 2.0}, TERMS, None, ""),
        # Where the coordinator reads uploads, a share of the noise is all that would hide one.
        *(
            ({"schemes": PLAIN}, noised(LOCAL, scheme=PLAINLY), noised(noise, scheme=PLAINLY), "privacy")
            for noise in (SILO, RECORD)
        ),
        # With noise in the sum the norm is the bound, and there are no weights.
        *(({"max_clip": 2.0}, noised(noise, encoded(bound=9.0)), None, "") for noise in (SILO, RECORD)),
        ({"max_clip": 2.0}, noised(LOCAL, encoded(bound=2.0)), noised(LOCAL, encoded(bound=9.0)), "max_clip"),
        *(({}, noised(noise, capped(1.0)), None, "") for noise in (SILO, RECORD)),
        ({}, noised(LOCAL, capped(100_000.0)), noised(LOCAL, capped(1.0)), "min_weight_cap"),
    ],
)
def test_a_floor_refuses_below_it_only(
    policy: dict[str, Any], good: Terms | None, bad: Terms | None, rule: str
) -> None:
    if good is not None:
        Policy(**policy).check(good, ROSTER)
    if bad is not None:
        with pytest.raises(PolicyRefused) as refused:
            Policy(**policy).check(bad, ROSTER)
        assert refused.value.rule == rule


def test_a_smaller_c_does_not_lower_t() -> None:
    """The floor of t is that of the silo's own c, whatever c the round names."""
    Policy(colluders=1).check(masking(c=1, t=5), ROSTER)
    assert Policy(colluders=3).least_threshold(N) == 6
    with pytest.raises(PolicyRefused):
        Policy(colluders=3).check(masking(c=1, t=5), ROSTER)


def test_the_defaults_are_the_formulas() -> None:
    for n in range(3, 30):
        cohort = Cohort.of(n)
        assert Policy().least_colluders(n) == cohort.c
        assert Policy().least_threshold(n) == cohort.t


@pytest.mark.parametrize(
    "floors",
    [
        {"min_silos": 2},
        {"colluders": 0},
        {"colluders": -1},
        {"min_honest": 1},
        {"max_l2_clip_norm": 0.0},
        {"max_l2_clip_norm": float("nan")},
        {"require_privacy": "no"},
        {"require_privacy": 1},
    ],
)
def test_no_policy_is_below_the_protocol(floors: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        Policy(**floors)


def test_rules_are_checked_in_the_order_of_the_page() -> None:
    """Of terms that break all of them the first is named, then the next."""
    policy = Policy(require_privacy=True, max_l2_clip_norm=1.0, max_clip=1.0, min_silos=N + 1)
    terms = replace(capped(1.0), roster=bytes(32), release=2)
    steps: list[tuple[str, dict[str, Any]]] = [
        ("roster", {"roster": ROSTER.digest}),
        ("release", {"release": 1}),
        ("privacy", {"privacy": LOCAL}),
        ("max_l2_clip_norm", {"privacy": replace(LOCAL, l2_clip_norm=1.0)}),
        ("max_clip", {"encoding": Encoding(32, N - 1, (Segment("update", 3, 1.0, 8),), 1.0)}),
        ("min_weight_cap", {"encoding": Encoding(32, N - 1, (Segment("update", 3, 1.0, 8),), 1e6)}),
        ("encoding", {"encoding": Encoding(32, N, (Segment("update", 3, 1.0, 8),), 1e6)}),
        ("min_silos", {}),
    ]
    for rule, change in steps:
        with pytest.raises(PolicyRefused) as refused:
            policy.check(terms, ROSTER)
        assert refused.value.rule == rule
        terms = replace(terms, **change)
