"""Powers spread over cores."""

from __future__ import annotations

import pytest

from secagg.errors import MalformedMessage, ParameterError
from secagg.hazmat.curve import POINT_SIZE, Exponent, hash_to_points
from secagg.psi.powers import SUITE, Powers

SPAN = 128
MANY = [str(number).encode() for number in range(2 * SPAN + 7)]


@pytest.fixture(autouse=True)
def _spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.psi.powers.SPAN", SPAN)


def test_what_it_gives_does_not_depend_on_cores() -> None:
    """Guarantee of ``Powers``."""
    exponent, other = Exponent.generate(), Exponent.generate()
    expected = exponent.powers(hash_to_points(MANY, SUITE + b"tag"))
    for cores in (1, 3, None):
        seen: list[int] = []
        powers = Powers(cores=cores, progress=seen.append)
        assert powers.of_messages(MANY, b"tag", exponent) == expected
        assert powers.of_points(expected, other) == other.powers(expected)
        assert seen == [SPAN, SPAN, 7] * 2


def test_nothing_has_no_powers() -> None:
    powers = Powers()
    assert (
        powers.of_messages([], b"tag", Exponent.generate())
        == powers.of_points(b"", Exponent.generate())
        == b""
    )


@pytest.mark.parametrize("at", [0, SPAN, len(MANY) - 1])
def test_a_wrong_point_is_refused_wherever_it_stands(at: int) -> None:
    points = bytearray(hash_to_points(MANY, b"tag"))
    points[at * POINT_SIZE : (at + 1) * POINT_SIZE] = bytes(POINT_SIZE)
    with pytest.raises(MalformedMessage, match="low order"):
        Powers(cores=2).of_points(bytes(points), Exponent.generate())
    with pytest.raises(MalformedMessage, match="whole points"):
        Powers(cores=2).of_points(bytes(points[:-1]), Exponent.generate())


def test_no_core_is_refused() -> None:
    with pytest.raises(ParameterError, match="cores is 0"):
        Powers(cores=0)
