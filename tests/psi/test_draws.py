"""Randomness of a session that may be resumed."""

from __future__ import annotations

import copy
import os

import pytest

from secagg.errors import ParameterError, UsageError
from secagg.psi.draws import Seeded, fresh

SEED = bytes(range(32))


def test_a_seed_gives_the_same_at_each_place_whatever_is_drawn_at_others() -> None:
    """Guarantee of ``Seeded``."""
    one, two = Seeded(SEED), Seeded(SEED)
    two("padding")(1000)
    first = one("exponent")
    assert [first(32), first(33)] == [two("exponent")(32), two("exponent")(33)]


def test_no_two_draws_have_bytes_in_common() -> None:
    """Guarantee of ``Seeded``."""
    draws, other = Seeded(SEED), Seeded(bytes(32))
    drawn = [draws(place)(4096) for place in ("order", "order", "padding")]
    drawn += [draws("order")(4096), other("order")(4096)]
    blocks = [each[at : at + 16] for each in drawn for at in range(0, 4096, 16)]
    assert len(set(blocks)) == len(blocks)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 32])
def test_as_many_bytes_are_drawn_as_are_asked_for(size: int) -> None:
    assert len(Seeded(SEED)("tags")(size)) == size


@pytest.mark.parametrize("at", [0, 13, 31])
def test_every_byte_of_the_seed_counts(at: int) -> None:
    changed = bytearray(SEED)
    changed[at] ^= 1
    assert Seeded(SEED)("exponent")(32) != Seeded(bytes(changed))("exponent")(32)


def test_a_seed_of_another_size_is_refused() -> None:
    with pytest.raises(ParameterError, match="32 bytes, not 16"):
        Seeded(bytes(16))


def test_it_shows_nothing_and_is_not_copied() -> None:
    """Guarantees of ``Seeded``."""
    assert repr(Seeded(SEED)) == "Seeded()"
    with pytest.raises(UsageError, match="not copied"):
        copy.deepcopy(Seeded(SEED))


def test_a_session_that_is_not_resumed_draws_from_the_system() -> None:
    assert fresh("exponent") is os.urandom
