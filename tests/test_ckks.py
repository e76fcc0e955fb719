"""CKKS: sums within the proven bound, scales that cannot wrap, and a refusal for everything else."""

from __future__ import annotations

import copy
import gc
import hashlib
import math
import os
import pickle
import subprocess
import sys
import zlib
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from secagg.ckks import parameters as planning
from secagg.ckks import seal as border
from secagg.ckks.parameters import (
    CHECK_SLOTS,
    MOST_SCALE_BITS,
    NOISE_LIMIT,
    NOISE_VARIANCE,
    RINGS,
    SECRET_MAGIC,
    SumParameters,
    holds,
    plan,
)
from secagg.ckks.public import (
    CiphertextSum,
    check_upload,
    refuse_secret,
)
from secagg.ckks.seal import Seal, plain_body, sealapi
from secagg.ckks.secret import (
    OpenedSum,
    Publisher,
    SecretKey,
    SecretMaterial,
    check_values,
    encrypt,
    open_sum,
)
from secagg.errors import (
    EnvironmentFault,
    InputRefused,
    MalformedMessage,
    ParameterError,
    PolicyRefused,
    RoundAborted,
    UsageError,
)
from secagg.payload import Payload, regroup
from tests.adversary.reference import Tape
from tests.ckks_reference import (
    ROUND,
    World,
    backward,
    decrypted,
    forward,
    halves,
    key_values,
    payload_of,
    slots_of,
)
from tests.counts import count

DEGREES = list(RINGS)
SMALL = min(DEGREES)
bounds = st.floats(2.0**-30, 2.0**40)
cohorts = st.integers(2, 10_000)
degrees = st.sampled_from(DEGREES)


@lru_cache
def world(degree: int = SMALL, *, cohort: int = 3, length: int = 3000, bound: float = 1.0) -> World:
    return World(plan(length, bound=bound, cohort=cohort, degree=degree))


def vectors(shared: World, silos: int, seed: int = 0) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    bound = shared.parameters.bound
    return [rng.uniform(-bound, bound, shared.parameters.length) for _ in range(silos)]


def opened(shared: World, payload: Payload, silos: int) -> OpenedSum:
    return open_sum(shared.key, shared.parameters, payload, silos=silos, round_id=shared.round_id)


def errors(found: OpenedSum, inputs: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Errors against the exact sum, rounded once."""
    exact = np.array([math.fsum(entries) for entries in np.stack(inputs).T.tolist()])
    return np.asarray(np.abs(found.values - exact))


# Parameters


@pytest.mark.parametrize("degree", DEGREES)
def test_the_rings_are_those_that_seal_would_choose_within_the_standard(degree: int) -> None:
    ring = RINGS[degree]
    bits = [ring.modulus.bit_length(), ring.special.bit_length()]
    assert bits == {8192: [60, 60], 4096: [60, 46]}[degree]
    assert [m.value() for m in sealapi.CoeffModulus.Create(degree, bits)] == [ring.modulus, ring.special]
    assert ring.most_modulus_bits == {8192: 218, 4096: 109}[degree]
    assert ring.most_modulus_bits == sealapi.CoeffModulus.MaxBitCount(degree, sealapi.SEC_LEVEL_TYPE.TC128)
    assert ring.modulus_bits <= ring.most_modulus_bits
    context = Seal(ring).context
    # What decrypts is bounded by the first prime alone: the special one is at the level of keys only.
    assert [m.value() for m in context.first_context_data().parms().coeff_modulus()] == [ring.modulus]
    assert context.key_context_data().total_coeff_modulus_bit_count() == ring.modulus_bits


def test_the_default_is_the_ring_far_inside_the_standard() -> None:
    assert plan(10, bound=1.0, cohort=3).degree == 8192


@given(bound=bounds, cohort=cohorts, degree=degrees)
def test_the_scale_is_the_largest(bound: float, cohort: int, degree: int) -> None:
    found = plan(10, bound=bound, cohort=cohort, degree=degree)
    for worse in ({"scale_bits": found.scale_bits + 1}, {"cohort": 4 * cohort}, {"bound": 4 * bound}):
        if found.scale_bits == MOST_SCALE_BITS and "scale_bits" not in worse:
            continue  # A limit of the encoder, not of the head-room.
        with pytest.raises(ParameterError, match="scale"):
            replace(found, **worse)


@given(bound=bounds, cohort=cohorts, degree=degrees)
def test_no_accepted_sum_can_reach_half_the_modulus(bound: float, cohort: int, degree: int) -> None:
    found = plan(10, bound=bound, cohort=cohort, degree=degree)
    largest = cohort * (Fraction(bound) * 2**found.scale_bits + Fraction(1, 2) + NOISE_LIMIT)
    assert largest < Fraction(found.ring.modulus, 2)


def test_the_limit_is_reached_and_not_passed_by_one() -> None:
    ring = RINGS[SMALL]
    room = (ring.modulus - 1) // 2
    for cohort in (2, 7, 64):
        # Whole numbers at scale 1: the largest value that leaves room for a rounding, noise and roundoff.
        value = (room // cohort - 1 - NOISE_LIMIT) * 2**45 // (2**45 + 1)
        assert holds(ring, cohort=cohort, bound=value, scale_bits=0)
        assert not holds(ring, cohort=cohort, bound=value + 1, scale_bits=0)
        assert cohort * (value + NOISE_LIMIT + 1) < ring.modulus / 2
        assert value > room // cohort * (1 - 2.0**-44)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"length": 0}, "length"),
        ({"length": 2.5}, "length"),
        ({"bound": 0.0}, "bound"),
        ({"bound": -1.0}, "bound"),
        ({"bound": math.nan}, "bound"),
        ({"bound": math.inf}, "bound"),
        ({"bound": 2.0**59}, "lower bound or cohort"),
        ({"bound": 2.0**-70}, "bound"),
        ({"cohort": 1}, "cohort"),
        ({"cohort": 2**60}, "lower bound or cohort"),
        ({"degree": 2048}, "degree is 2048, must be one of 8192, 4096"),
        ({"degree": 16384}, "degree"),
        ({"releases": 0}, "releases"),
        ({"precision": 1e-15}, "may be off by .* lower bound or cohort, or loosen precision"),
        ({"precision": 0.0}, "precision"),
    ],
)
def test_a_plan_is_refused_and_says_what_to_change(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        plan(**({"length": 10, "bound": 8.0, "cohort": 6} | changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"degree": 2048}, "degree"),
        ({"cohort": 1}, "one silo's sum is its vector"),
        ({"releases": 0}, "releases"),
        ({"length": 0}, "length"),
        ({"bound": math.nan}, "bound"),
        ({"bound": math.inf}, "bound"),
        ({"scale_bits": -1}, "scale_bits"),
        ({"scale_bits": 59}, "scale_bits"),
        ({"scale_bits": 58}, "could wrap at scale 2\\^58: lower scale_bits, bound or cohort"),
    ],
)
def test_no_parameters_with_a_field_out_of_range(changes: dict[str, Any], text: str) -> None:
    good: dict[str, Any] = {"cohort": 3, "length": 10, "bound": 1.0, "scale_bits": 50}
    SumParameters(**good)
    with pytest.raises(ParameterError, match=text):
        SumParameters(**(good | changes))


def test_a_precision_that_is_reached_is_accepted() -> None:
    found = plan(10, bound=1.0, cohort=5)
    assert plan(10, bound=1.0, cohort=5, precision=found.error_bound()) == found
    with pytest.raises(FrozenInstanceError):
        found.length = 3  # type: ignore[misc]


def test_every_field_is_in_the_digest() -> None:
    base = plan(10, bound=1.0, cohort=5)
    others = [
        replace(base, degree=4096),
        replace(base, cohort=4),
        replace(base, length=11),
        replace(base, bound=0.5),
        replace(base, scale_bits=base.scale_bits - 1),
        replace(base, releases=2),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 7
    assert base.digest == replace(base).digest


# Errors


@pytest.mark.parametrize("degree", DEGREES)
def test_the_sums_of_cosines_are_those_of_the_derivation(degree: int) -> None:
    for slot in (0, 1, degree // 3, degree // 2 - 1):
        powers = np.cos(np.pi * np.arange(degree) * (2 * slot + 1) / degree)
        assert np.abs(powers).sum() == pytest.approx(1 / math.tan(math.pi / 2 / degree), rel=1e-9)
        assert np.abs(powers).sum() < 2 * degree / math.pi * (1 + 1e-12)
        assert (powers**2).sum() == pytest.approx(degree / 2, rel=1e-9)


@pytest.mark.parametrize("degree", DEGREES)
def test_fresh_noise_is_what_the_bound_is_made_for(degree: int) -> None:
    shared = world(degree)
    ring, key = shared.parameters.ring, key_values(shared.key)
    seal = Seal(ring)
    encryptor = sealapi.Encryptor(seal.context, shared.key._key)
    found = []
    for _ in range(count(12, full=100)):
        ciphertext = sealapi.Ciphertext()
        encryptor.encrypt_zero_symmetric(ciphertext)
        ciphertext.scale = shared.parameters.scale
        found.append(decrypted(ring, seal.read_sum(shared.parameters, ciphertext), key))
    noise = np.concatenate(found).astype(np.float64)
    assert np.abs(noise).max() <= NOISE_LIMIT
    assert np.abs(noise).max() > NOISE_LIMIT / 2
    deviation = 6 * math.sqrt(2 / noise.size)
    assert abs(noise.mean()) < 6 * math.sqrt(NOISE_VARIANCE / noise.size)
    assert abs(noise.var() / NOISE_VARIANCE - 1) < deviation


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("silos", [2, 3, 5, 16, 64])
@pytest.mark.parametrize("bound", [1.0, 0.1, 3e5])
def test_a_sum_is_the_plain_one_within_the_bound(degree: int, silos: int, bound: float) -> None:
    shared = world(degree, cohort=silos, length=600, bound=bound)
    inputs = vectors(shared, silos)
    found = opened(shared, shared.summed([shared.encrypted(v) for v in inputs]), silos)
    assert found.silos == silos
    assert found.worst_error == shared.parameters.error_bound(silos)
    assert errors(found, inputs).max() <= found.worst_error
    assert np.linalg.norm(errors(found, inputs)) <= shared.parameters.chunk_error_bound(silos)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("silos", [2, 7, 64])
@pytest.mark.parametrize("extreme", ["high", "low", "turns", "spikes"])
def test_extremes_do_not_wrap(degree: int, silos: int, extreme: str) -> None:
    length = RINGS[degree].entries
    shared = world(degree, cohort=silos, length=length, bound=0.7)
    high = np.full(length, 0.7)
    turns = np.where(np.arange(length) % 2, 0.7, -0.7)
    spikes = np.where(np.arange(length) % 97, 0.0, 0.7)
    vector = {"high": high, "low": -high, "turns": turns, "spikes": spikes}[extreme]
    summed = shared.summed([shared.encrypted(vector)] * silos)
    found = opened(shared, summed, silos)
    assert errors(found, [vector] * silos).max() <= found.worst_error
    coefficients = decrypted(shared.parameters.ring, summed.buffer()[:], key_values(shared.key))
    room = shared.parameters.ring.modulus // 2
    if extreme in {"high", "low"}:
        assert room // 8 < max(abs(coefficients)) < room  # The check slots differ, so it is not reached.


@given(
    data=st.data(),
    silos=st.integers(2, 8),
    length=st.integers(1, 2 * RINGS[SMALL].entries + 1),
    bound=st.floats(2.0**-20, 2.0**30),
)
def test_any_vectors_add_up_within_the_bound(
    data: st.DataObject, silos: int, length: int, bound: float
) -> None:
    shared = World(plan(length, bound=bound, cohort=8, degree=SMALL))
    entries = st.floats(-bound, bound)
    inputs = [
        data.draw(arrays.arrays(np.float64, length, elements=entries, fill=entries)) for _ in range(silos)
    ]
    found = opened(shared, shared.summed([shared.encrypted(v) for v in inputs]), silos)
    assert found.values.shape == (length,)
    assert errors(found, inputs).max() <= found.worst_error


def test_fewer_silos_than_the_cohort_have_a_smaller_bound() -> None:
    shared = world(cohort=8)
    inputs = vectors(shared, 3)
    found = opened(shared, shared.summed([shared.encrypted(v) for v in inputs]), 3)
    assert errors(found, inputs).max() <= found.worst_error < shared.parameters.error_bound()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_values_of_every_real_type_are_taken(dtype: type[Any]) -> None:
    shared = world(length=50, bound=4.0)
    vector = np.arange(50).astype(dtype) % 5
    found = opened(shared, shared.summed([shared.encrypted(vector)] * 3), 3)
    assert errors(found, [vector.astype(np.float64)] * 3).max() <= found.worst_error


# A second implementation


@pytest.mark.parametrize("degree", DEGREES)
def test_decryption_in_plain_integers_says_the_same(degree: int) -> None:
    shared = world(degree)
    ring, key = shared.parameters.ring, key_values(shared.key)
    assert set(backward(ring, key)) == {-1, 0, 1}
    assert np.array_equal(forward(ring, backward(ring, key)), key)
    inputs = vectors(shared, 3)
    summed = shared.summed([shared.encrypted(v) for v in inputs])
    found = opened(shared, summed, 3)
    for place, chunk in enumerate(regroup(summed.pieces(), 16 * degree)):
        slots = slots_of(ring, decrypted(ring, chunk, key), shared.parameters.scale).real
        part = found.values[place * ring.entries : (place + 1) * ring.entries]
        assert np.abs(slots[: part.size] - part).max() <= found.worst_error
        written = check_values(shared.parameters, round_id=ROUND, chunk=place)
        assert np.abs(slots[-CHECK_SLOTS:] - 3 * np.array(written)).max() <= found.worst_error


@pytest.mark.parametrize("degree", DEGREES)
def test_tenseals_own_vectors_add_up_to_the_same(degree: int) -> None:
    shared = world(degree, length=RINGS[degree].entries)
    ring = shared.parameters.ring
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=degree,
        coeff_mod_bit_sizes=[ring.modulus.bit_length(), ring.special.bit_length()],
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.global_scale = shared.parameters.scale
    inputs = vectors(shared, 3)
    theirs = sum(tenseal.ckks_vector(context, v) for v in inputs[1:]) + tenseal.ckks_vector(
        context, inputs[0]
    )
    ours = opened(shared, shared.summed([shared.encrypted(v) for v in inputs]), 3)
    assert np.abs(np.array(theirs.decrypt()) - ours.values).max() <= 2 * ours.worst_error


# What travels


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("length", [100_000, 1_000_000])
def test_bytes_a_parameter(degree: int, length: int) -> None:
    shared = world(degree, length=length, cohort=2)
    small = np.zeros(length, np.float32)
    sent = sum(len(chunk) for chunk in encrypt(shared.key, shared.parameters, small, round_id=ROUND))
    assert sent == shared.parameters.chunks * (64 + 8 * degree)
    # The last chunk is padded: up to 4 % of 10^5, 0.4 % of 10^6 parameters.
    assert sent / length <= (17 if length == 1_000_000 else 16.5)


def test_encrypting_twice_gives_other_bytes_for_the_same_vector() -> None:
    shared = world()
    vector = vectors(shared, 1)[0]
    first, second = (np.frombuffer(shared.encrypted(vector), "<u8") for _ in range(2))
    assert (first != second).all()


def test_chunks_come_one_by_one() -> None:
    shared = world(length=50_000)
    stream = encrypt(shared.key, shared.parameters, np.zeros(50_000), round_id=ROUND)
    assert len(next(stream)) == 64 + 8 * SMALL


@pytest.mark.parametrize(
    ("rule", "vector"),
    [
        ("nan", np.array([0.0, math.nan, 0.0])),
        ("infinite", np.array([0.0, 0.0, -math.inf])),
        ("bound", np.array([0.0, 0.0, 1.0000001])),
        ("shape", np.zeros(4)),
        ("shape", np.zeros((3, 1))),
        ("dtype", np.zeros(3, np.complex128)),
        ("dtype", np.array(["1", "2", "3"])),
    ],
)
def test_what_cannot_be_encrypted_is_refused_before_a_chunk_is_made(rule: str, vector: Any) -> None:
    shared = world(length=3)
    with pytest.raises(InputRefused) as refusal:
        encrypt(shared.key, shared.parameters, vector, round_id=ROUND)
    assert refusal.value.rule == rule
    assert "0000001" not in str(refusal.value)


def test_a_bad_number_in_a_late_chunk_is_named_by_its_index() -> None:
    shared = world(length=3000)
    vector = np.zeros(3000)
    vector[2999] = math.nan
    with pytest.raises(InputRefused, match="entry 2999"):
        encrypt(shared.key, shared.parameters, vector, round_id=ROUND)


def test_a_key_of_another_ring_is_refused() -> None:
    small, large = world(4096), world(8192)
    with pytest.raises(UsageError, match="degree 8192"):
        encrypt(small.key, large.parameters, np.zeros(3000), round_id=ROUND)
    with pytest.raises(UsageError, match="degree 4096"):
        open_sum(large.key, small.parameters, payload_of(b""), silos=2, round_id=ROUND)


# Check slots


def spoiled_sums(shared: World, uploads: list[bytes]) -> dict[str, Payload]:
    """Sums in which a chunk of one silo went astray."""
    size, degree = 64 + 8 * shared.parameters.degree, shared.parameters.degree

    def with_last(*chunks: int) -> bytes:
        return b"".join(uploads[2][size * chunk : size * (chunk + 1)] for chunk in chunks)

    whole = shared.summed(uploads)
    words = np.frombuffer(whole.buffer()[:], "<u8").reshape(-1, 2 * degree).copy()
    first = np.frombuffer(shared.summed(uploads[:2]).buffer()[:], "<u8").reshape(-1, 2 * degree)
    both = world_sum(shared, words[0], first[0])
    return {
        "swapped": shared.summed([*uploads[:2], with_last(1, 0)]),
        "duplicated": shared.summed([*uploads[:2], with_last(0, 0)]),
        "dropped": payload_of(np.stack([first[0], words[1]]).tobytes()),
        "swapped in the sum": payload_of(words[::-1].tobytes()),
        "added again": payload_of(np.stack([both, words[1]]).tobytes()),
        "zero": payload_of(bytes(words.nbytes)),
        "one silo's": shared.summed([uploads[0]]),
    }


def world_sum(shared: World, *chunks: NDArray[Any]) -> NDArray[np.uint64]:
    total = sum(chunk.astype(object) for chunk in chunks) % shared.parameters.ring.modulus
    return np.asarray(total).astype(np.uint64)


@pytest.mark.parametrize(
    "case",
    ["swapped", "duplicated", "dropped", "swapped in the sum", "added again", "zero", "one silo's"],
)
def test_a_chunk_that_went_astray_is_found(case: str) -> None:
    shared = world()
    uploads = [shared.encrypted(v) for v in vectors(shared, 3)]
    opened(shared, shared.summed(uploads), 3)
    with pytest.raises(RoundAborted, match=r"chunk . of what was to be opened is no sum of 3 uploads"):
        opened(shared, spoiled_sums(shared, uploads)[case], 3)


def test_another_number_another_round_and_another_key_are_found() -> None:
    shared = world()
    summed = shared.summed([shared.encrypted(v) for v in vectors(shared, 3)])
    stranger = SecretKey.generate(SMALL)
    for key, silos, round_id in (
        (shared.key, 2, ROUND),
        (shared.key, 3, hashlib.sha256(b"earlier").digest()),
        (stranger, 3, ROUND),
    ):
        with pytest.raises(RoundAborted, match="nothing was opened"):
            open_sum(key, shared.parameters, summed, silos=silos, round_id=round_id)
    for silos in (0, 1, 4):
        with pytest.raises(UsageError, match="silos"):
            opened(shared, summed, silos)


def test_values_behind_the_end_are_found() -> None:
    longer = world(length=3000)
    shared = World(replace(longer.parameters, length=2999))
    summed = longer.summed([longer.encrypted(np.full(3000, 0.5))] * 3)
    # The check slots depend on the parameters: shown here to be right, so that the end alone is wrong.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secagg.ckks.secret.check_slots", lambda *_, **__: None)
        with pytest.raises(RoundAborted, match="behind its end"):
            open_sum(longer.key, shared.parameters, summed, silos=3, round_id=ROUND)


@pytest.mark.parametrize("cut", [-8, 8, -16 * SMALL])
def test_a_sum_of_another_size_is_malformed(cut: int) -> None:
    shared = world()
    data = shared.summed([shared.encrypted(v) for v in vectors(shared, 3)]).buffer()[:].tobytes()
    wrong = data[:cut] if cut < 0 else data + bytes(cut)
    with pytest.raises(MalformedMessage, match="bytes, under these parameters it has"):
        opened(shared, payload_of(wrong), 3)
    with pytest.raises(MalformedMessage, match="bytes, under"):
        opened(shared, Payload.over("f8", len(data) // 8, memoryview(data)), 3)


def test_a_sum_with_a_word_that_is_no_coefficient_is_malformed() -> None:
    shared = world()
    data = shared.summed([shared.encrypted(v) for v in vectors(shared, 3)]).buffer()[:].tobytes()
    words = np.frombuffer(data, "<u8").copy()
    words[-1] = shared.parameters.ring.modulus
    with pytest.raises(MalformedMessage, match="not below the modulus"):
        opened(shared, payload_of(words.tobytes()), 3)


# Keys


def test_a_key_shows_its_id_alone_and_is_not_copied() -> None:
    key = SecretKey.generate(SMALL)
    assert repr(key) == f"SecretKey(key_id={key.key_id.hex()[:16]})"
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError, match="not copied or pickled"):
            attempt(key)
    assert repr(key.material()) == "SecretMaterial()"


@pytest.mark.parametrize("degree", DEGREES)
def test_a_loaded_key_is_the_same_key(degree: int) -> None:
    shared = world(degree)
    again = SecretKey.from_material(shared.key.material())
    assert again.key_id == shared.key.key_id
    assert again.material() == shared.key.material()
    summed = shared.summed([shared.encrypted(v) for v in vectors(shared, 3)])
    found = open_sum(again, shared.parameters, summed, silos=3, round_id=ROUND)
    assert np.array_equal(found.values, opened(shared, summed, 3).values)
    assert SecretKey.generate(degree).key_id != again.key_id


def test_what_is_no_key_is_not_loaded() -> None:
    content = world().key.material().content
    start = len(SECRET_MAGIC)
    highest = content[:-8] + b"\xff" * 8
    wrong = (b"", SECRET_MAGIC, content[:-1], content + b"\0", b"x" + content[1:], highest)
    for data in (*wrong, content[:start] + (2048).to_bytes(8, "big") + content[start + 8 :]):
        with pytest.raises(MalformedMessage):
            SecretKey.from_material(SecretMaterial(data))
    with pytest.raises(ParameterError, match="degree"):
        SecretKey.generate(2048)


def test_no_other_key_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = sealapi.KeyGenerator, []

    class Watched:
        def __init__(self, context: Any) -> None:
            self._real = real(context)

        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return getattr(self._real, name)

    monkeypatch.setattr(sealapi, "KeyGenerator", Watched)
    shared = World(plan(10, bound=1.0, cohort=2, degree=SMALL))
    opened(shared, shared.summed([shared.encrypted(np.zeros(10))] * 2), 2)
    assert asked == ["secret_key"]


def test_secrets_leave_nothing_in_the_file_in_memory() -> None:
    key = SecretKey.generate(SMALL)
    SecretKey.from_material(key.material())
    loaded = SecretKey.from_material(key.material())
    assert os.fstat(loaded._seal._file).st_size == 0
    assert os.fstat(key._seal._file).st_size == 0


def test_files_in_memory_are_closed_with_what_uses_them() -> None:
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    held = [Seal(RINGS[SMALL]) for _ in range(8)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 8
    del held
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# The coordinator


def test_the_total_holds_one_vector_whatever_the_number_of_silos() -> None:
    shared = world(cohort=6, length=5000)
    total = CiphertextSum(shared.parameters)
    payload = shared.checked(shared.encrypted(np.zeros(5000)))
    for silo in range(6):
        total.add(payload)
        assert len(total._totals) == shared.parameters.chunks
        assert total.uploads == silo + 1
    summed = total.payload()
    assert sum(map(len, summed.pieces())) == summed.size == 16 * SMALL * shared.parameters.chunks


def test_a_total_of_nothing_or_of_too_many_is_refused() -> None:
    shared = world(cohort=2)
    payload = shared.checked(shared.encrypted(np.zeros(3000)))
    total = CiphertextSum(shared.parameters)
    with pytest.raises(UsageError, match="no upload"):
        total.payload()
    for _ in range(2):
        total.add(payload)
    with pytest.raises(UsageError, match="more could wrap"):
        total.add(payload)
    assert total.uploads == 2
    opened(shared, total.payload(), 2)


def changed_word(shared: World, value: int, at: int = -1) -> Payload:
    words = np.frombuffer(shared.encrypted(np.zeros(shared.parameters.length)), "<u8").copy()
    words[at] = value
    return payload_of(words.tobytes())


@pytest.mark.parametrize("place", [8, 64 // 8 + SMALL - 1, 64 // 8 + SMALL + 8, -1])
def test_a_word_that_is_no_coefficient_is_found_wherever_it_is(place: int) -> None:
    shared = world()
    highest = shared.parameters.ring.modulus - 1
    check_upload(changed_word(shared, highest, place), shared.parameters)
    for value in (highest + 1, 2**63, 2**64 - 1):
        with pytest.raises(MalformedMessage, match="not below the modulus"):
            check_upload(changed_word(shared, value, place), shared.parameters)


@pytest.mark.parametrize("words", [0, 1, -1, 7])
def test_an_upload_of_another_size_or_type_is_malformed(words: int) -> None:
    shared = world()
    data = shared.encrypted(np.zeros(3000))
    wrong = data[: 8 * words] if words < 1 else data + bytes(8 * words)
    with pytest.raises(MalformedMessage, match="an upload of"):
        check_upload(payload_of(wrong), shared.parameters)
    with pytest.raises(MalformedMessage, match="an upload of"):
        check_upload(Payload.over("f8", len(data) // 8, memoryview(data)), shared.parameters)
    for buffer in (data[:-8], data + bytes(8)):
        with pytest.raises(MalformedMessage, match="another size came"):
            check_upload(Payload.over("u8", len(data) // 8, memoryview(buffer)), shared.parameters)


def test_a_total_that_was_added_to_in_part_is_never_given_out() -> None:
    shared = world()
    good = shared.checked(shared.encrypted(np.zeros(3000)))
    total = CiphertextSum(shared.parameters)
    total.add(good)
    with pytest.raises(MalformedMessage, match="not below the modulus"):
        total.add(changed_word(shared, 2**64 - 1))
    assert total.uploads == 1
    for attempt in (total.payload, lambda: total.add(good)):
        with pytest.raises(UsageError, match="begin a new total"):
            attempt()


def test_a_total_that_got_too_few_chunks_is_never_given_out() -> None:
    shared = world()
    data = shared.encrypted(np.zeros(3000))
    for wrong in (data[: len(data) // 2], data[:-8], data * 2):
        total = CiphertextSum(shared.parameters)
        total.add(shared.checked(data))
        with pytest.raises(MalformedMessage):
            total.add(payload_of(wrong))
        with pytest.raises(UsageError, match="begin a new total"):
            total.payload()


def secret_blobs() -> dict[str, bytes]:
    """Serialised secrets as an operator may send them by mistake."""
    shared = world()
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=SMALL, coeff_mod_bit_sizes=[60, 46]
    )
    file = os.memfd_create("secret")
    path = f"/proc/self/fd/{file}"
    shared.key._key.save(path)
    size = os.fstat(file).st_size
    raw = os.pread(file, size, 0)
    os.close(file)
    return {
        "our own": shared.key.material().content,
        "SEAL's": raw,
        "TenSEAL's": context.serialize(save_secret_key=True),
    }


@pytest.mark.parametrize("kind", ["our own", "SEAL's", "TenSEAL's"])
@pytest.mark.parametrize("padded", [False, True])
def test_secret_material_is_refused_before_seal_sees_it(
    kind: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = world()
    blob = secret_blobs()[kind]
    with pytest.raises(MalformedMessage, match="key"):
        refuse_secret(blob)
    monkeypatch.setattr(Seal, "load", lambda *_: pytest.fail("SEAL was handed a secret"))
    size = shared.parameters.chunks * (64 + 8 * SMALL)
    blob += bytes(-len(blob) % 8)
    if padded:  # To the size of an upload, or cut to it.
        blob = blob[:size].ljust(size, b"\0")
    # What SEAL wrote is compressed: at the right size its words are no coefficients.
    with pytest.raises(MalformedMessage, match="modulus" if padded and kind != "our own" else "key"):
        shared.checked(blob)


def test_ciphertexts_are_not_taken_for_secrets() -> None:
    shared = world()
    data = shared.encrypted(np.zeros(3000))
    assert shared.checked(data).length == len(data) // 8


# Publishing


def test_noise_is_that_of_the_formula() -> None:
    found = plan(1_000_000, bound=1.0, cohort=5, releases=10)
    assert found.chunks == 245
    expected = math.sqrt(12 * 10 * 245) * 2**20 * found.chunk_error_bound()
    assert found.publishing_sigma == pytest.approx(expected, rel=1e-12)
    assert found.publishing_sigma / 16 < found.publishing_grid <= found.publishing_sigma / 8
    assert math.frexp(found.publishing_grid)[0] == 0.5
    assert found.chunk_error_bound() >= found.error_bound()
    # All that is published under a key tells less than 2^-40 / 24 beyond exact sums.
    divergence = 10 * 245 * found.chunk_error_bound() ** 2 / (2 * found.publishing_sigma**2)
    assert divergence == pytest.approx(2**-40 / 24)


def sum_to_publish(shared: World) -> OpenedSum:
    return opened(shared, shared.summed([shared.encrypted(v) for v in vectors(shared, 2)]), 2)


def test_a_published_sum_has_that_noise_and_lies_on_the_grid() -> None:
    shared = world(length=20_000, cohort=2)
    parameters, found = shared.parameters, sum_to_publish(shared)
    values = Publisher(parameters, key_id=shared.key.key_id).publish(found)
    steps = values / parameters.publishing_grid
    assert np.array_equal(steps, np.rint(steps))
    width = (values - found.values).std() / parameters.publishing_sigma
    # Six standard deviations; two thirds or three halves of the right width would be seen.
    assert abs(width - 1) < 6 / math.sqrt(2 * 20_000) + 0.001
    assert len(np.unique(values - found.values)) > 15_000


def test_noise_comes_from_the_random_source_and_is_never_the_same_by_default() -> None:
    shared = world(cohort=2)
    found = sum_to_publish(shared)
    publisher = Publisher(replace(shared.parameters, releases=4), key_id=shared.key.key_id)
    found = replace(found, parameters=replace(shared.parameters, releases=4))
    taped = [publisher.publish(found, random=Tape("noise")) for _ in range(2)]
    fresh = [publisher.publish(found) for _ in range(2)]
    assert np.array_equal(taped[0], taped[1])
    assert (fresh[0] != fresh[1]).mean() > 0.9


def test_no_more_sums_are_published_than_the_noise_is_made_for() -> None:
    shared = world(cohort=2)
    parameters = replace(shared.parameters, releases=3)
    found = replace(sum_to_publish(shared), parameters=parameters)
    publisher = Publisher(parameters, key_id=shared.key.key_id)
    for released in range(3):
        assert publisher.released == released
        publisher.publish(found)
    # A process that comes back hands the count in again.
    for spent in (publisher, Publisher(parameters, key_id=shared.key.key_id, released=3)):
        with pytest.raises(PolicyRefused, match="make a new key") as refusal:
            spent.publish(found)
        assert refusal.value.rule == "releases"
        assert spent.released == 3
    with pytest.raises(ParameterError, match="released"):
        Publisher(parameters, key_id=shared.key.key_id, released=-1)


def test_a_failed_release_counts() -> None:
    shared = world(cohort=2)
    publisher = Publisher(shared.parameters, key_id=shared.key.key_id)

    def broken(_: int) -> bytes:
        raise OSError("no entropy")

    with pytest.raises(OSError, match="no entropy"):
        publisher.publish(sum_to_publish(shared), random=broken)
    with pytest.raises(PolicyRefused):
        publisher.publish(sum_to_publish(shared))


def test_a_publisher_takes_sums_of_its_own_key_and_parameters_only() -> None:
    shared = world(cohort=2)
    found = sum_to_publish(shared)
    others = (
        Publisher(shared.parameters, key_id=bytes(32)),
        Publisher(replace(shared.parameters, releases=2), key_id=shared.key.key_id),
    )
    for publisher in others:
        with pytest.raises(UsageError, match="own key and parameters"):
            publisher.publish(found)
        assert publisher.released == 0


def test_an_opened_sum_shows_no_values() -> None:
    assert "values" not in repr(sum_to_publish(world(cohort=2)))


# The border to SEAL


def test_seals_forms_are_read_and_no_other() -> None:
    def form(mode: int, content: bytes, size: int = 0) -> bytes:
        length = size or 16 + len(content)
        return b"\x5e\xa1\x10\x04\x01" + bytes([mode]) + bytes(2) + length.to_bytes(8, "little") + content

    def block(content: bytes, kind: int = 0, last: int = 1) -> bytes:
        return (last | kind << 1 | len(content) << 3).to_bytes(3, "little") + content

    start = b"\x28\xb5\x2f\xfd\x20\x06"  # One segment, its size in a byte.
    assert bytes(plain_body(form(0, b"plain"))) == b"plain"
    assert bytes(plain_body(form(1, zlib.compress(b"plain")))) == b"plain"
    assert bytes(plain_body(form(2, start + block(b"stored")))) == b"stored"
    assert bytes(plain_body(form(2, start + block(b"sto", last=0) + block(b"red")))) == b"stored"
    wrong = [
        b"",
        b"\x5e\xa1",
        form(0, b"plain", size=20),
        form(0, b"plain")[1:] + b"\0",
        form(1, b"plain"),
        form(2, b"plain"),
        form(2, start),
        form(2, start + block(b"s", kind=1)),
        form(2, start + block(b"compressed", kind=2)),
        form(2, start + block(b"sto", last=0)),
        form(2, start + block(b"stored") + b"more"),
        form(3, b"plain"),
    ]
    for data in wrong:
        with pytest.raises(EnvironmentFault, match="not known here"):
            plain_body(data)


def test_another_layout_of_seal_is_an_environment_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = world()
    stored = Seal.stored

    def shifted(seal: Seal, value: Any) -> memoryview:
        return memoryview(bytes(stored(seal, value)) + b"\0")

    monkeypatch.setattr(Seal, "stored", shifted)
    with pytest.raises(EnvironmentFault, match="form that is not known"):
        shared.encrypted(np.zeros(3000))


def test_what_seal_refuses_is_malformed() -> None:
    seal = Seal(RINGS[SMALL])
    for body in (b"", b"x" * 100):
        with pytest.raises(MalformedMessage, match="SEAL refuses"):
            seal.load(sealapi.Ciphertext(), body)


def test_a_system_without_files_in_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(EnvironmentFault, match="memfd_create"):
        Seal(RINGS[SMALL])


def test_a_ring_that_seal_refuses_is_named() -> None:
    ring = RINGS[SMALL]
    with pytest.raises(EnvironmentFault, match="SEAL refuses the ring"):
        Seal(replace(ring, special=RINGS[8192].special))  # 120 bits at degree 4096.


@given(pieces=st.lists(st.binary(max_size=40), max_size=8), size=st.integers(1, 24))
def test_regrouping_neither_loses_nor_invents(pieces: list[bytes], size: int) -> None:
    data, found = b"".join(pieces), b""
    try:
        for chunk in regroup(map(memoryview, pieces), size):
            assert len(chunk) == size
            found += bytes(chunk)
    except MalformedMessage:
        assert len(data) % size
    else:
        assert len(data) % size == 0
    assert found == data[: len(data) // size * size]


# Packages


def test_planning_needs_no_tenseal_and_the_rest_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['tenseal'] = None\n"
        "import secagg, secagg.ckks, secagg.ckks.parameters as p\n"
        "p.plan(10, bound=1.0, cohort=3)\n"
        "from secagg.errors import MissingExtra\n"
        "for half in ('seal', 'public', 'secret'):\n"
        "    try: __import__('secagg.ckks.' + half)\n"
        "    except MissingExtra as missing: print(missing.extra, missing.package, missing)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "ckks tenseal tenseal is not installed. Type: pip install 'secagg[ckks]'\n" * 3, (
        done.stderr
    )


def test_the_parameters_load_no_tenseal() -> None:
    code = "import sys, secagg.ckks.parameters; print('tenseal' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert not hasattr(planning, "sealapi")
    assert border.sealapi is sealapi


def test_halves_of_a_sum_are_two_polynomials() -> None:
    shared = world()
    summed = shared.summed([shared.encrypted(v) for v in vectors(shared, 2)])
    first, second = halves(next(regroup(summed.pieces(), 16 * SMALL)))
    assert first.size == second.size == SMALL
    assert max(first.max(), second.max()) < shared.parameters.ring.modulus
