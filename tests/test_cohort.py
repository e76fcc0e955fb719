"""The arithmetic of who must collude, checked over every small cohort."""

from __future__ import annotations

import pytest

from secagg.cohort import Cohort, default_colluders, least_threshold
from secagg.errors import ParameterError

SMALL = range(-1, 11)
ALL = [(n, c, t, k) for n in SMALL for c in SMALL for t in SMALL for k in SMALL]


def built(n: int, c: int, t: int, k: int) -> Cohort | None:
    try:
        return Cohort(n, c, t, k)
    except ParameterError:
        return None


def test_what_is_built_is_exactly_what_the_protocol_allows() -> None:
    """Guarantee: 2t > n + c, always."""
    for n, c, t, k in ALL:
        allowed = n >= 3 and 1 <= c <= n - 2 and n + c < 2 * t <= 2 * n and 2 <= k <= n - c
        assert (built(n, c, t, k) is not None) == allowed, (n, c, t, k)


def test_the_smallest_opened_set_covers_k_min_honest_silos() -> None:
    """Guarantee: min_survivors - c >= k_min; and the answers of the dropouts are never needed."""
    for numbers in ALL:
        cohort = built(*numbers)
        if cohort is not None:
            assert cohort.min_survivors - cohort.c >= cohort.k_min
            assert cohort.t <= cohort.min_survivors <= cohort.n
            assert cohort.max_dropouts == cohort.n - cohort.min_survivors


def test_any_two_groups_of_t_share_an_honest_silo() -> None:
    """What 2t > n + c is for: 2t - n silos are in both groups, more than may collude."""
    for n in range(3, 60):
        for c in range(1, n - 1):
            t = least_threshold(n, c)
            assert 2 * t - n > c
            assert not 2 * (t - 1) - n > c  # and no smaller t will do


def test_the_defaults_are_the_published_table() -> None:
    table = {3: (1, 3, 0), 4: (1, 3, 1), 5: (1, 4, 1), 6: (1, 4, 2), 7: (2, 5, 2), 10: (3, 7, 3)}
    table |= {16: (5, 11, 5), 20: (6, 14, 6)}
    for n, (c, t, dropouts) in table.items():
        cohort = Cohort.of(n)
        assert (cohort.c, cohort.t, cohort.max_dropouts, cohort.k_min) == (c, t, dropouts, 2)
        assert default_colluders(n) == c


def test_chosen_values_are_kept() -> None:
    assert Cohort.of(10, c=2) == Cohort(10, 2, 7, 2)
    assert Cohort.of(10, c=2, t=9, k_min=8) == Cohort(10, 2, 9, 8)
    assert Cohort.of(10, c=2, t=9, k_min=8).max_dropouts == 0


@pytest.mark.parametrize(
    ("numbers", "parameter", "text"),
    [
        ((2, 1, 2, 2), "n", "at least 3"),
        ((5, 0, 4, 2), "c", "1 to n - 2 = 3"),
        ((5, 4, 5, 2), "c", "1 to n - 2 = 3"),
        ((5, 1, 3, 2), "t", "must be 4 to 5"),
        ((5, 1, 6, 2), "t", "must be 4 to 5"),
        ((5, 1, 4, 1), "k_min", "2 to n - c = 4"),
        ((5, 1, 4, 5), "k_min", "2 to n - c = 4"),
    ],
)
def test_a_refusal_names_the_parameter_and_its_range(
    numbers: tuple[int, int, int, int], parameter: str, text: str
) -> None:
    with pytest.raises(ParameterError, match=text) as error:
        Cohort(*numbers)
    assert error.value.parameter == parameter


@pytest.mark.parametrize("name", ["n", "c", "t", "k_min"])
@pytest.mark.parametrize("value", [3.5, 3.0, "3", True, None])
def test_numbers_of_silos_are_whole(name: str, value: object) -> None:
    numbers: dict[str, object] = {"n": 5, "c": 1, "t": 4, "k_min": 2}
    with pytest.raises(ParameterError, match=f"{name} is .*whole number") as refused:
        Cohort(**(numbers | {name: value}))  # type: ignore[arg-type]
    assert refused.value.parameter == name


@pytest.mark.parametrize("named", [{"c": 1.5}, {"c": "1"}, {"t": 3.5}, {"t": "3"}, {"k_min": 2.5}])
def test_defaults_are_not_computed_from_what_is_no_number(named: dict[str, object]) -> None:
    with pytest.raises(ParameterError, match="whole number"):
        Cohort.of(5, **named)  # type: ignore[arg-type]
