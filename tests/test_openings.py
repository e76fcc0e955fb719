"""Who opens a sum that takes long says how far it is."""

from __future__ import annotations

import numpy as np
import pytest
from structlog.testing import capture_logs

from secagg.fixedpoint import plan_sum
from secagg.paillier.coordinator import PaillierAdder
from secagg.paillier.silo import PaillierCipher, ThresholdPaillierCipher
from silo.agent import OPENING_SECONDS, Openings
from tests.federations import dealt
from tests.paillier_keys import shared_key

LENGTH = 300
ENCODING = plan_sum(LENGTH, clip=1.0, cohort=4, word_bits=32)
ROUND = bytes(32)


@pytest.mark.parametrize("shares", [False, True])
def test_every_ciphertext_of_an_opening_is_counted(shares: bool) -> None:
    told: list[tuple[int, int]] = []

    def opened(done: int, count: int) -> None:
        told.append((done, count))

    cipher: PaillierCipher | ThresholdPaillierCipher
    if shares:
        cipher = ThresholdPaillierCipher(dealt(4, 3)[1][0], ENCODING, opened=opened)
    else:
        cipher = PaillierCipher(shared_key(), ENCODING, opened=opened)
    assert isinstance(cipher, PaillierAdder)
    total = cipher.begin()
    for silo in "ab":
        total.add(cipher.encrypt(np.ones(LENGTH + 1, np.uint32), silo=silo, round_id=ROUND))
    if isinstance(cipher, ThresholdPaillierCipher):
        cipher.part(total.total(), round_id=ROUND)
    else:
        assert set(cipher.open(total.total(), silos=2, round_id=ROUND)) == {2}
    assert cipher.count > 1
    assert {count for _, count in told} == {cipher.count}
    counted = [done for done, _ in told]
    assert counted == sorted(set(counted))
    assert counted[-1] == cipher.count


def test_a_silo_logs_now_and_then_and_not_what_is_quick() -> None:
    now = 0.0
    openings = Openings(lambda: now)
    with capture_logs() as lines:
        for done in range(1, 11):
            openings(done, 10)
        assert lines == []
        for done in range(1, 8):
            openings(done, 2000)
            now += OPENING_SECONDS / 3
        openings(2000, 2000)
        now += 10 * OPENING_SECONDS
        openings(1, 2000)
    assert [(line["event"], line["ciphertexts"]) for line in lines] == [
        ("opening", "4 of 2,000"),
        ("opening", "7 of 2,000"),
    ]
