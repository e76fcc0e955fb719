"""Attack ``ckks_key_recovery``: solve for the key with ciphertexts and what they decrypt to.

A decryption is ``c0 + c1 s`` modulo q with nothing left out, so whoever knows it and the ciphertext has a
linear equation in the key s. SEAL gives real slots, which are half of it: of a polynomial m they determine m
+ m*, its sum with the one whose slots are conjugate. In the transformed domain that is one equation in two
values of s, and two ciphertexts give two (Li, Micciancio 2021). The attacker rounds to integers to undo the
decoder's roundoff, and knows that it has won when the solution is a polynomial of -1, 0 and 1.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.ckks.parameters import CHECK_SLOTS, RINGS, Ring, SumParameters, plan
from secagg.ckks.seal import Seal, sealapi
from secagg.ckks.secret import Publisher, SecretKey, _decrypted, check_values, open_sum
from secagg.ckks.silo import CKKSCipher
from secagg.fixedpoint import plan_sum
from secagg.payload import Payload, regroup
from tests.ckks_reference import (
    ROUND,
    Integers,
    World,
    backward,
    coefficients_of,
    decrypted,
    forward,
    halves,
    key_values,
    slots_of,
)

CHUNKS = 6
SILOS = 3
Slots = NDArray[np.float64]


def world(degree: int) -> tuple[World, Payload]:
    """Silos with updates well within their bound, and the sum that a coordinator holds."""
    length = CHUNKS * RINGS[degree].entries
    shared = World(plan(length, bound=64.0, cohort=SILOS, degree=degree))
    rng = np.random.default_rng(degree)
    return shared, shared.summed([shared.encrypted(rng.normal(0, 0.05, length)) for _ in range(SILOS)])


def raw_slots(shared: World, summed: Payload) -> list[Slots]:
    """All slots of every chunk as SEAL decrypts them: what must never reach who holds ciphertexts."""
    seal = Seal(shared.parameters.ring)
    decryptor = sealapi.Decryptor(seal.context, shared.key._key)
    encoder = sealapi.CKKSEncoder(seal.context)
    chunks = regroup(summed.pieces(), 16 * shared.parameters.degree)
    return [_decrypted(decryptor, encoder, seal.summed(shared.parameters, chunk)) for chunk in chunks]


def published_slots(shared: World, summed: Payload) -> list[Slots]:
    """What is known of these slots when a sum was published: check slots follow from the protocol."""
    parameters = shared.parameters
    found = open_sum(shared.key, parameters, summed, silos=SILOS, round_id=ROUND)
    values = Publisher(parameters, key_id=shared.key.key_id).publish(found)
    known = []
    for chunk, part in enumerate(values.reshape(CHUNKS, -1)):
        check = check_values(parameters, round_id=ROUND, chunk=chunk)
        known.append(np.concatenate([part, SILOS * np.array(check)]))
    return known


def real_part(ring: Ring, slots: Slots, scale: float) -> Integers:
    """m + m*, whose slots are twice the real ones; errors of the check slots are estimated and taken away.

    Rounding to integers leaves what the errors of two slots add to every coefficient: small waves, whose
    values in these slots are the errors.
    """
    slots = slots.copy()
    for _ in range(6):
        exact = coefficients_of(ring, slots, 2 * scale)
        finer = coefficients_of(ring, slots, 2 * scale * 2**20)
        waves = finer - exact * 2**20
        slots[-CHECK_SLOTS:] -= slots_of(ring, waves, 2 * scale * 2**20).real[-CHECK_SLOTS:]
    return coefficients_of(ring, slots, 2 * scale)


def solve(parameters: SumParameters, chunks: list[bytes], sums: list[Integers]) -> Integers:
    """Return what two ciphertexts and their m + m* say about the key, transformed."""
    q, half = parameters.ring.modulus, parameters.degree // 2
    rows = []
    for chunk, known in zip(chunks, sums, strict=True):
        first, second = halves(chunk)
        # A root's conjugate is its inverse, which stands at the mirrored place.
        right = (known - first - first[::-1]) % q
        rows.append((second[:half], second[::-1][:half], right[:half]))
    (a, b, r), (c, d, t) = rows
    inverse = np.array([pow(int(x), -1, q) if x else 0 for x in (a * d - b * c) % q], object)
    near, far = (d * r - b * t) * inverse % q, (a * t - c * r) * inverse % q
    return np.concatenate([near, far[::-1]])


def recovered(parameters: SumParameters, summed: Payload, slots: list[Slots]) -> list[Integers]:
    """Attack: return every key, transformed, that is one."""
    ring = parameters.ring
    transformed = [forward(ring, real_part(ring, part, parameters.scale)) for part in slots]
    chunks = [bytes(chunk) for chunk in regroup(summed.pieces(), 16 * parameters.degree)]
    found = []
    for one, other in combinations(range(CHUNKS), 2):
        solution = solve(parameters, [chunks[one], chunks[other]], [transformed[one], transformed[other]])
        if set(backward(ring, solution)) <= {-1, 0, 1}:
            found.append(solution)
    return found


def opens_an_upload(shared: World, key: Integers) -> bool:
    """Whether a recovered key reads what one silo sends."""

    ring, vector = shared.parameters.ring, np.full(shared.parameters.length, 0.25)
    seal = Seal(ring)
    fresh = seal.fresh(shared.parameters, memoryview(shared.encrypted(vector))[: 64 + 8 * ring.degree])
    chunk = seal.read_sum(shared.parameters, fresh)
    slots = slots_of(ring, decrypted(ring, chunk, key), shared.parameters.scale).real
    return bool(np.abs(slots[: ring.entries] - 0.25).max() < 1e-9)


@pytest.mark.parametrize("degree", list(RINGS))
def test_raw_decryptions_give_the_whole_key(degree: int) -> None:
    shared, summed = world(degree)
    keys = recovered(shared.parameters, summed, raw_slots(shared, summed))
    assert len(keys) == CHUNKS * (CHUNKS - 1) // 2
    assert all(np.array_equal(key, key_values(shared.key)) for key in keys)
    assert opens_an_upload(shared, keys[0])


def test_ckks_key_recovery() -> None:
    for degree in RINGS:
        shared, summed = world(degree)
        slots = published_slots(shared, summed)
        assert recovered(shared.parameters, summed, slots) == [], "the key was recovered"
        # Not in part either: the best that the attacker solved for agrees with the key nowhere.
        ring = shared.parameters.ring

        chunks = [bytes(chunk) for chunk in regroup(summed.pieces(), 16 * degree)][:2]
        sums = [forward(ring, real_part(ring, part, shared.parameters.scale)) for part in slots[:2]]
        guess = solve(shared.parameters, chunks, sums)
        assert (guess == key_values(shared.key)).sum() == 0, "values of the key were recovered"


def opened_in_a_round(degree: int) -> tuple[SumParameters, Payload, list[Slots], CKKSCipher]:
    """The sum of a round, and its slots as far as what every silo opens tells them."""
    ring = RINGS[degree]
    encoding = plan_sum(CHUNKS * ring.entries - 1, clip=1.0, cohort=SILOS, word_bits=32)
    key = SecretKey.generate(degree)
    cipher = CKKSCipher(key, encoding)
    parameters, total = cipher.limbs.parameters, cipher.begin()
    assert cipher.limbs.count == 1
    rng = np.random.default_rng(degree)  # Of updates, which are no secret here.
    for silo in range(SILOS):
        vector = rng.integers(-(10**6), 10**6, encoding.length + 1).astype(np.int32).view(np.uint32)
        total.add(cipher.encrypt(vector, silo=str(silo), round_id=ROUND))
    summed = total.total()
    opened = cipher.open(summed, silos=SILOS, round_id=ROUND)
    values = opened.view(np.int32).astype(np.float64) if opened.dtype == np.uint32 else opened
    known = []
    for chunk, part in enumerate(values.reshape(CHUNKS, -1)):
        check = check_values(parameters, round_id=ROUND, chunk=chunk)
        known.append(np.concatenate([part, SILOS * np.array(check)]))
    return parameters, summed, known, cipher


def test_ckks_key_recovery_from_what_rounds_open() -> None:
    for degree in RINGS:
        parameters, summed, slots, cipher = opened_in_a_round(degree)
        assert recovered(parameters, summed, slots) == [], "the key was recovered"
        ring = parameters.ring
        chunks = [bytes(chunk) for chunk in regroup(summed.pieces(), 16 * degree)][:2]
        sums = [forward(ring, real_part(ring, part, parameters.scale)) for part in slots[:2]]
        guess = solve(parameters, chunks, sums)
        assert (guess == key_values(cipher._secret)).sum() == 0, "values of the key were recovered"


def test_ckks_key_recovery_from_what_rounds_open_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that hands on what was decrypted, without rounding it."""
    monkeypatch.setattr("secagg.ckks.limbs.Limbs.join", lambda _self, values: values)
    with pytest.raises(AssertionError, match="the key was recovered"):
        test_ckks_key_recovery_from_what_rounds_open()


def as_it_is(_parameters: SumParameters, values: Slots, _random: Any) -> Slots:
    """``noised`` without noise."""
    return values


@pytest.mark.parametrize(
    ("defence", "mutant"),
    [
        ("secagg.ckks.secret.noised", as_it_is),
        # Noise that hides the last bits of float64 and no more, on a grid as fine.
        ("secagg.ckks.parameters.SumParameters.publishing_sigma", property(lambda _: 2.0**-70)),
    ],
)
def test_ckks_key_recovery_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match="the key was recovered"):
        test_ckks_key_recovery()
