"""Powers spread over cores."""

from __future__ import annotations

import pytest

from secagg.errors import MalformedMessage, ParameterError
from secagg.hazmat.curve import POINT_SIZE, Exponent, hash_to_points
from secagg.psi.powers import SUITE, Powers
from secagg.psi.workers import powers_of

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


class Held:
    """Buckets in a dictionary."""

    def __init__(self) -> None:
        self.found: dict[bytes, bytes] = {}

    def load(self, name: bytes) -> bytes | None:
        return self.found.get(name)

    def keep(self, name: bytes, powers: bytes) -> None:
        self.found[name] = powers


def test_what_was_kept_for_something_else_is_never_taken() -> None:
    """Guarantee of ``Powers``."""
    buckets, points = Held(), hash_to_points(MANY, b"tag")
    powers = Powers(buckets=buckets)
    number = 0
    for exponent in (Exponent.generate(), Exponent.generate()):
        for terms in (b"t", b"u"):
            expected = exponent.powers(hash_to_points(MANY, SUITE + terms))
            assert powers.of_messages(MANY, terms, exponent) == expected
            assert powers.of_messages(MANY[::-1], terms, exponent) != expected
            assert powers.of_messages(MANY, terms, exponent) == expected
        assert powers.of_points(points, exponent) == exponent.powers(points)
        assert len(buckets.found) == (number := number + 5)


def test_an_error_is_told_before_all_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []

    def counted(inputs: bytes, tag: bytes, exponent: Exponent) -> bytes:
        computed.append(len(inputs))
        return powers_of(inputs, tag, exponent)

    def full(_: int) -> None:
        raise OSError("no room")

    monkeypatch.setattr("secagg.psi.powers.powers_of", counted)
    spans = 500
    with pytest.raises(OSError, match="no room"):
        Powers(cores=1, progress=full).of_points(
            hash_to_points(MANY[:SPAN], b"t") * spans, Exponent.generate()
        )
    assert len(computed) < spans
