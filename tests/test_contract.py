"""The contract suite for every scheme, and what protected ones owe beyond it: a view that says nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secagg import wire
from secagg.ckks.params import CKKS
from secagg.cohort import Cohort
from secagg.errors import TooFewSilos
from secagg.fixedpoint import SUM_LIMIT, Encoding
from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.prg import add_streams
from secagg.hazmat.shamir import combine, lagrange
from secagg.masking.checks import opening_matches
from secagg.masking.params import Masking
from secagg.masking.transcript import (
    Kind,
    descriptor_digest,
    pair_stream,
    round_id,
    self_stream,
    session_id,
)
from secagg.messages import (
    AggregateAnnounced,
    EncryptedInput,
    KeysAnnounced,
    MaskedInput,
    PartialDecryption,
    PartialsAnnounced,
    PlainInput,
    RoundOpened,
    SharesAnnounced,
    ShareSet,
    SumOpened,
    Unmasking,
)
from secagg.names import IntegerVector, SiloId, WordBits
from secagg.paillier.params import ThresholdPaillier
from secagg.plain import Plain
from secagg.roster import Roster
from secagg.rounds.driver import Phase, phases_of, reaches
from secagg.scheme import Scheme
from secagg.simulation import Dropouts
from secagg.sums import secure_mean, secure_sum
from secagg.terms import scheme_tag
from secagg.weighting import encode_mean, plan_mean
from tests import contract as clauses
from tests.contract import PHASES, Contract, counted_in, every_schedule, found, spellings, subset_sums
from tests.counts import FULL, count
from tests.federations import ENCRYPTED, LENGTH, Federation, Witness, bounded, flat, words

PLAIN = Contract(Plain(), PlainInput)
MASKING = Contract(Masking(), MaskedInput)
ENCRYPTING = [Contract(scheme, EncryptedInput) for scheme in ENCRYPTED]
ALL = [PLAIN, MASKING, *ENCRYPTING]
KINDS: tuple[Kind, ...] = ("seed", "mask")


def each(contracts: Sequence[Contract]) -> pytest.MarkDecorator:
    """Return what runs a test for each of ``contracts``."""
    return pytest.mark.parametrize("contract", contracts, ids=[type(c.scheme).__name__ for c in contracts])


@each(ALL)
@pytest.mark.parametrize("clause", clauses.CLAUSES, ids=lambda clause: clause.__name__)
def test_clause(contract: Contract, clause: Callable[[Contract], None]) -> None:
    clause(contract)


# --- sums --------------------------------------------------------------------------------------------------


def both_equal(n: int, *, word_bits: WordBits, dropouts: Dropouts, seed: int) -> None:
    for contract in (PLAIN, MASKING):
        clauses.equals_the_exact_sum(contract, n, word_bits=word_bits, dropouts=dropouts, seed=seed)


@pytest.mark.parametrize("word_bits", [32, 64])
@pytest.mark.parametrize("n", range(3, 9))
def test_one_loss_at_every_phase(n: int, word_bits: WordBits) -> None:
    names = Federation(n).roster.silos
    both_equal(n, word_bits=word_bits, dropouts={}, seed=n)
    for phase in PHASES if Cohort.of(n).max_dropouts else ():
        both_equal(n, word_bits=word_bits, dropouts={names[n // 2]: phase}, seed=n)


def test_two_losses_at_every_pair_of_phases() -> None:
    schedules = list(every_schedule(Federation(6).roster.silos, 2, PHASES))
    assert len(schedules) == 15 * 36
    for seed, dropouts in enumerate(schedules if FULL else schedules[::7]):
        both_equal(6, word_bits=32, dropouts=dropouts, seed=seed)


@st.composite
def runs(draw: st.DrawFn, phases: Sequence[Phase] = PHASES) -> dict[str, Any]:
    n = draw(st.integers(3, 8))
    names = Federation(n).roster.silos
    most = Cohort.of(n).max_dropouts
    lost = draw(st.lists(st.sampled_from(names), unique=True, max_size=most))
    return {
        "n": n,
        "word_bits": draw(st.sampled_from([32, 64])),
        "dropouts": {silo: draw(st.sampled_from(phases)) for silo in lost},
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


@given(runs())
def test_any_losses_that_the_threshold_allows(run: dict[str, Any]) -> None:
    both_equal(**run)


@pytest.mark.parametrize("n", [16, 32])
def test_large_cohorts(n: int) -> None:
    names, most = Federation(n).roster.silos, Cohort.of(n).max_dropouts
    scattered = {names[(7 * i) % n]: PHASES[i % len(PHASES)] for i in range(most)}
    assert len(scattered) == most
    both_equal(n, word_bits=32, dropouts=scattered, seed=n)
    both_equal(n, word_bits=64, dropouts=dict.fromkeys(names[:most], "MaskedInput"), seed=n)


LEARNING = (
    st.integers(3, 6),
    st.sampled_from([32, 64]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([None, "ShareKeys", "MaskedInput", "Unmasking"]),
)


@given(*LEARNING)
def test_weights_and_metrics_are_the_same_sum(n: int, word_bits: WordBits, seed: int, lost: Any) -> None:
    weights_and_metrics((Plain(), Masking()), n, word_bits, seed, lost)


@settings(max_examples=count(4, full=20))
@given(*LEARNING)
def test_weights_and_metrics_are_the_same_sum_under_encryption(
    n: int, word_bits: WordBits, seed: int, lost: Any
) -> None:
    weights_and_metrics((Plain(), *ENCRYPTED), n, word_bits, seed, lost)


def weights_and_metrics(schemes: Sequence[Scheme], n: int, word_bits: WordBits, seed: int, lost: Any) -> None:
    """Sum what a learning round sums: weighted updates, weights and metrics, in one vector."""
    numbers = np.random.default_rng(seed)
    encoding = plan_mean(
        6,
        clip=2.0,
        cohort=n,
        weight_cap=1000.0,
        least_total_weight=1000.0,
        metrics=("loss",),
        word_bits=word_bits,
        precision=1.0,
    )
    names = Federation(n).roster.silos
    vectors = {
        silo: encode_mean(
            encoding,
            update=numbers.normal(0, 1, 6),
            weight=float(numbers.integers(0, 1001)),
            metrics={"loss": float(numbers.uniform(0, 3))},
            evaluation_weight=float(numbers.integers(0, 1001)),
        )
        for silo in names
    }
    dropouts: Dropouts = {names[-1]: lost} if lost is not None and n > 3 else {}
    totals = set()
    for scheme in schemes:
        federation = Federation(n, scheme=scheme, encoding=encoding, vectors=vectors, seed=seed)
        opened = federation.run(federation.coordinator(), dropouts)
        assert opened.survivors == counted_in(dropouts, names)
        assert opened.total.tolist() == federation.sum_of(opened.survivors)
        totals.add(opened.total.tobytes())
    assert len(totals) == 1


@given(st.integers(3, 6), st.integers(0, 2**32 - 1))
def test_what_a_user_calls_gives_the_same_bits(n: int, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    vectors = {f"s{i}": numbers.uniform(-3, 3, 4) for i in range(n)}
    weights = {silo: float(numbers.integers(1, 500)) for silo in vectors}
    lost: Dropouts = {"s1": "MaskedInput"} if n > 3 else {}
    sums = [secure_sum(vectors, scheme=scheme, clip=3.0, dropouts=lost) for scheme in (Plain(), Masking())]
    means = [
        secure_mean(vectors, weights=weights, scheme=scheme, clip=3.0, dropouts=lost)
        for scheme in (Plain(), Masking())
    ]
    assert sums[0].total.tobytes() == sums[1].total.tobytes()
    assert means[0].mean.tobytes() == means[1].mean.tobytes()
    assert means[0].weight == means[1].weight
    assert {result.survivors for result in sums} == {result.survivors for result in means}
    assert {result.survivors for result in sums} == {counted_in(lost, vectors)}
    # And they are the right bits: each entry of the sum is off by half a step a silo at most.
    exact = np.sum([vectors[silo] for silo in sums[0].survivors], axis=0)
    assert np.abs(sums[0].total - exact).max() <= sums[0].report.worst_error


@pytest.mark.filterwarnings("ignore:a Paillier key of 2048 bits")
@pytest.mark.parametrize("scheme", ENCRYPTED, ids=lambda scheme: type(scheme).__name__)
def test_what_a_user_calls_gives_the_same_bits_under_encryption(scheme: Scheme) -> None:
    """With a key that is made for the call."""
    numbers = np.random.default_rng(5)
    vectors = {f"s{i}": numbers.uniform(-3, 3, 4) for i in range(4)}
    weights = {silo: float(numbers.integers(1, 500)) for silo in vectors}
    lost: Dropouts = {"s1": "MaskedInput"}
    plain, sealed = (secure_sum(vectors, scheme=s, clip=3.0, dropouts=lost) for s in (Plain(), scheme))
    assert plain.total.tobytes() == sealed.total.tobytes()
    assert plain.survivors == sealed.survivors == ("s0", "s2", "s3")
    if isinstance(scheme, CKKS) or FULL:  # Another key costs primes.
        means = [
            secure_mean(vectors, weights=weights, scheme=s, clip=3.0, dropouts=lost)
            for s in (Plain(), scheme)
        ]
        assert means[0].mean.tobytes() == means[1].mean.tobytes()
        assert means[0].weight == means[1].weight


# --- the same under every scheme ---------------------------------------------------------------------------

LOSSES: tuple[Phase, ...] = (*PHASES, "Opened")
COHORTS = tuple(range(3, 9)) if FULL else (3, 5)


def equals_plain(contract: Contract, n: int, *, word_bits: WordBits, dropouts: Dropouts, seed: int) -> None:
    """Sum the same vectors, which an encryption takes, in clear and under ``contract``."""
    vectors = {
        silo: bounded(LENGTH, word_bits, n, seed, slot, 4)
        for slot, silo in enumerate(Federation(n).roster.silos)
    }
    sums = {
        clauses.equals_the_exact_sum(
            scheme, n, word_bits=word_bits, dropouts=dropouts, seed=seed, vectors=vectors
        )
        for scheme in (PLAIN, contract)
    }
    assert len(sums) == 1


def losses_of(contract: Contract, n: int) -> Sequence[Phase]:
    """Return where silos are lost: once in each phase of a scheme that takes long, or under every name."""
    if FULL or not isinstance(contract.scheme, ThresholdPaillier):
        return LOSSES
    return ("MaskedInput", "Unmasking", "Opened")


@each(ENCRYPTING)
@pytest.mark.parametrize("n", COHORTS)
def test_one_loss_at_every_phase_under_encryption(contract: Contract, n: int) -> None:
    names = Federation(n).roster.silos
    equals_plain(contract, n, word_bits=32, dropouts={}, seed=n)
    equals_plain(contract, n, word_bits=64, dropouts={}, seed=n)
    for number, phase in enumerate(losses_of(contract, n) if Cohort.of(n).max_dropouts else ()):
        sizes: tuple[WordBits, ...] = (32, 64)
        for word_bits in sizes if FULL else sizes[number % 2 :][:1]:
            equals_plain(contract, n, word_bits=word_bits, dropouts={names[n // 2]: phase}, seed=n)


@each(ENCRYPTING)
def test_two_losses_at_pairs_of_phases_under_encryption(contract: Contract) -> None:
    schedules = list(every_schedule(Federation(6).roster.silos, 2, LOSSES))
    every = (29, 251) if isinstance(contract.scheme, ThresholdPaillier) else (7, 61)
    for seed, dropouts in enumerate(schedules[:: every[0 if FULL else 1]]):
        equals_plain(contract, 6, word_bits=32, dropouts=dropouts, seed=seed)


@settings(max_examples=count(3, full=30))
@given(runs(LOSSES))
def test_any_losses_that_the_threshold_allows_under_encryption(run: dict[str, Any]) -> None:
    for contract in ENCRYPTING:
        equals_plain(contract, **run)


@each(ENCRYPTING)
def test_a_large_cohort_under_encryption(contract: Contract) -> None:
    n = 8 if isinstance(contract.scheme, ThresholdPaillier) and not FULL else 16
    names, most = Federation(n).roster.silos, Cohort.of(n).max_dropouts
    scattered = {names[(3 * i) % n]: LOSSES[(i + 3) % len(LOSSES)] for i in range(most)}
    assert len(scattered) == most
    equals_plain(contract, n, word_bits=32, dropouts=scattered, seed=n)


# --- one loss too many -------------------------------------------------------------------------------------


class View:
    """What a curious coordinator can do with one attempt: an opener that shares no line with the product's.

    Shares are filed under what their commitment says they are: nobody's word is taken for their kind.
    """

    def __init__(self, opened: RoundOpened) -> None:
        self.opened = opened
        self.session = b""
        self.round_id = b""
        self.share_sets: dict[SiloId, ShareSet] = {}
        self.uploads: dict[SiloId, NDArray[Any]] = {}
        self.shares: dict[tuple[SiloId, Kind], dict[SiloId, bytes]] = {}

    def read(self, peer: SiloId, message: Any) -> None:
        match message:
            case KeysAnnounced():
                opened = self.opened
                descriptor = descriptor_digest(opened.training, opened.attempt, opened.seconds)
                self.session = session_id(descriptor, message.bundles)
            case SharesAnnounced():
                self.share_sets = dict(message.share_sets)
                self.round_id = round_id(self.session, message.share_sets)
            case MaskedInput():
                self.uploads[peer] = message.vector.array()[:-1]
            case Unmasking():
                for dealer, opening in message.openings:
                    entry = next(e for e in self.share_sets[dealer].entries if e.recipient == peer)
                    for kind in KINDS:
                        if opening_matches(self.session, dealer, entry, kind, opening):
                            self.shares.setdefault((dealer, kind), {})[peer] = opening.share
            case _:
                pass

    def secret(self, roster: Roster, dealer: SiloId, kind: Kind, threshold: int) -> bytes | None:
        held = self.shares.get((dealer, kind), {})
        if len(held) < threshold:
            return None
        return combine(lagrange([roster.slot(silo) + 1 for silo in held]), list(held.values()))

    def openable(self, roster: Roster, threshold: int) -> dict[frozenset[SiloId], list[int]]:
        """Return every set of uploads whose masks can all be taken off, with its sum."""
        seeds = {s: self.secret(roster, s, "seed", threshold) for s in self.share_sets}
        masks = {s: self.secret(roster, s, "mask", threshold) for s in self.share_sets}
        found = {}
        for size in range(1, len(self.uploads) + 1):
            for chosen in combinations(self.uploads, size):
                total = self._opened(roster, frozenset(chosen), seeds, masks)
                if total is not None:
                    found[frozenset(chosen)] = total.tolist()
        return found

    def _opened(
        self,
        roster: Roster,
        chosen: frozenset[SiloId],
        seeds: Mapping[SiloId, bytes | None],
        masks: Mapping[SiloId, bytes | None],
    ) -> NDArray[Any] | None:
        total = np.zeros_like(next(iter(self.uploads.values())))
        for silo in chosen:
            total += self.uploads[silo]
        for silo in chosen:
            seed = seeds[silo]
            if seed is None:
                return None
            total -= stream(self_stream(seed, self.round_id, silo), total.size)
            for peer in self.share_sets.keys() - chosen:
                secret, other = masks[peer], silo
                if secret is None:
                    secret, other = masks[silo], peer
                if secret is None:
                    return None
                lower, higher = sorted((silo, peer), key=roster.slot)
                key = AgreementKey.from_private_bytes(secret)
                name = pair_stream(
                    key, self.share_sets[other].mask, self.round_id, lower=lower, higher=higher
                )
                mask = stream(name, total.size)
                total += mask if silo == higher else -mask
        return total


def stream(key: bytes, size: int) -> NDArray[Any]:
    words = np.zeros(size, np.uint32)
    add_streams(words, plus=[key])
    return words


def views(coordinator: Witness) -> list[View]:
    """Return the coordinator's view of each attempt."""
    attempts: dict[int, View] = {}
    for peer, message in coordinator.log:
        if isinstance(message, RoundOpened):
            attempts.setdefault(message.attempt, View(message))
        elif attempts:
            attempts[max(attempts)].read(peer, message)
    return list(attempts.values())


def openable(federation: Federation, coordinator: Witness) -> dict[frozenset[SiloId], list[int]]:
    found: dict[frozenset[SiloId], list[int]] = {}
    for view in views(coordinator):
        found |= view.openable(federation.roster, federation.t)
    return found


def partial_sums_in_view(federation: Federation, coordinator: Witness) -> set[bytes]:
    """Return each sum of some silos' plain vectors that is the sum of some uploads, or the running total."""
    plain = subset_sums(list(federation.vectors.values()))
    seen = set()
    for view in views(coordinator):
        seen |= subset_sums(list(view.uploads.values()))
    seen |= {vector[:-1].tobytes() for vector in vectors_held(coordinator)}
    return plain & seen


def vectors_held(coordinator: Witness) -> list[NDArray[Any]]:
    """Return every vector that the coordinator's objects hold, wherever it is kept."""
    return [held for held in reachable(coordinator._state) if isinstance(held, np.ndarray)]


def reachable(root: object) -> list[object]:
    seen: dict[int, object] = {}
    todo = [root]
    while todo:
        held = todo.pop()
        if id(held) in seen or isinstance(held, type | ModuleType | FunctionType):
            continue
        seen[id(held)] = held
        todo += gc.get_referents(held)
    return list(seen.values())


@pytest.mark.parametrize("n", range(3, 9))
def test_one_loss_too_many(n: int) -> None:
    """At every phase: the phase is named, no silo applies a sum, and no set of uploads can be opened."""
    names, most = Federation(n).roster.silos, Cohort.of(n).max_dropouts
    for phase in PHASES:
        federation = Federation(n, seed=n)
        coordinator = federation.coordinator(attempts=1)
        with pytest.raises(TooFewSilos) as few:
            federation.run(coordinator, dict.fromkeys(names[-most - 1 :], phase))
        assert few.value.phase == phase
        assert (few.value.have, few.value.need) == (n - most - 1, federation.t)
        assert set(few.value.missing) == set(names[-most - 1 :])
        reveals_nothing(federation, coordinator)


@given(runs(), st.data())
def test_one_loss_too_many_at_mixed_phases(run: dict[str, Any], data: st.DataObject) -> None:
    """Also when the coordinator tries again: attempts that fail do not add up to a sum."""
    n = run["n"]
    names = Federation(n).roster.silos
    lost = data.draw(st.permutations(names))[: Cohort.of(n).max_dropouts + 1]
    federation = Federation(n, seed=run["seed"])
    coordinator = federation.coordinator()
    with pytest.raises(TooFewSilos):
        federation.run(coordinator, {silo: data.draw(st.sampled_from(PHASES)) for silo in lost})
    reveals_nothing(federation, coordinator)


def reveals_nothing(federation: Federation, coordinator: Witness) -> None:
    assert coordinator.outcome is None
    assert all(not work.applied for work in federation.work.values())
    for view in views(coordinator):
        for held in view.shares.values():
            assert len(held) < federation.t
    assert not openable(federation, coordinator)
    assert not partial_sums_in_view(federation, coordinator)


def test_the_opener_works_where_it_may() -> None:
    """The control: with t answers the same view opens the sum of the survivors, and no other set.

    One answer fewer and it opens nothing, one answer handed back and it opens it again.
    """
    federation = Federation(6, seed=1)
    coordinator = federation.coordinator()
    opened = federation.run(coordinator, {"west": "MaskedInput", "east": "Unmasking"})
    survivors = frozenset(opened.survivors)
    assert openable(federation, coordinator) == {survivors: federation.sum_of(opened.survivors)}

    answers = [entry for entry in coordinator.log if isinstance(entry[1], Unmasking)]
    assert len(answers) == federation.t
    for answer in answers:
        coordinator.log.remove(answer)
        assert not openable(federation, coordinator)
        coordinator.log.append(answer)
        assert survivors in openable(federation, coordinator)


def test_without_self_masks_partial_sums_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the search for partial sums: without self masks, the sum of all uploads is one."""

    def pairs_only(total: Any, *, plus: list[bytes], minus: list[bytes], threads: int | None) -> None:
        add_streams(total, plus=plus[1:], minus=minus, threads=threads)

    monkeypatch.setattr("secagg.masking.silo.add_streams", pairs_only)
    federation = Federation(4, seed=1)
    coordinator = federation.coordinator(attempts=1)
    with pytest.raises(TooFewSilos):
        federation.run(coordinator, {"west": "Unmasking", "east": "Unmasking"})
    everyone = np.array(federation.sum_of(federation.roster.silos), np.uint32)
    assert partial_sums_in_view(federation, coordinator) == {everyone.tobytes()}
    with pytest.raises(AssertionError):
        reveals_nothing(federation, coordinator)


@each(ENCRYPTING)
@pytest.mark.parametrize("n", COHORTS[:2])
def test_one_loss_too_many_under_encryption(contract: Contract, n: int) -> None:
    """Up to the answers that open: the phase is named, no silo applies a sum, fewer than t parts are there.

    Of a key that every silo holds, any silo that is told the sum opens it.
    """
    names, most = Federation(n).roster.silos, Cohort.of(n).max_dropouts
    for phase in losses_of(contract, n):
        federation = contract.federation(n, seed=n)
        met = next(p for p in phases_of(scheme_tag(federation.terms.scheme)) if reaches(p, phase))
        if met == "Opened":
            continue
        coordinator = federation.coordinator(attempts=1)
        with pytest.raises(TooFewSilos) as few:
            federation.run(coordinator, dict.fromkeys(names[-most - 1 :], phase))
        assert few.value.phase == met
        assert (few.value.have, few.value.need) == (n - most - 1, federation.t)
        assert set(few.value.missing) == set(names[-most - 1 :])
        assert coordinator.outcome is None
        assert all(not work.applied for work in federation.work.values())
        said = [message for _, message in coordinator.log if isinstance(message, PartialDecryption)]
        assert len(said) < federation.t
        assert not [m for _, m in coordinator.log if isinstance(m, AggregateAnnounced | PartialsAnnounced)]


# --- nothing about one silo --------------------------------------------------------------------------------

EXAMPLES, LOSS = 123457.0, 0.7312894


def planted(word_bits: WordBits) -> tuple[Encoding, dict[SiloId, IntegerVector]]:
    """Return an encoding and vectors, that of "west" made of the planted numbers."""
    encoding = plan_mean(
        9,
        clip=2.0,
        cohort=5,
        weight_cap=2.0**20,
        least_total_weight=2.0**20,
        metrics=("loss",),
        word_bits=word_bits,
        precision=1e-3,
    )
    numbers = np.random.default_rng(11)
    vectors = {
        silo: encode_mean(
            encoding,
            update=numbers.normal(0, 0.5, 9),
            weight=EXAMPLES if silo == "west" else float(numbers.integers(1, 2**20)),
            metrics={"loss": LOSS if silo == "west" else float(numbers.uniform(0, 2))},
            evaluation_weight=EXAMPLES if silo == "west" else float(numbers.integers(1, 2**20)),
        )
        for silo in Federation(5).roster.silos
    }
    return encoding, vectors


def needles(encoding: Encoding, vector: IntegerVector) -> set[bytes]:
    """Return what betrays a silo: its vector, every run of it, each of its weights and metrics."""
    size = vector.itemsize
    raw = vector.tobytes()
    runs = {raw} | {raw[i : i + 16] for i in range(0, 9 * size - 15, size)}
    words = {
        raw[place.start * size : place.stop * size]
        for segment, place in encoding.slices()
        if segment.name in {"weight", "evaluation_weight", "metric:loss"}
    }
    return runs | words


@pytest.mark.parametrize("word_bits", [32, 64])
@pytest.mark.parametrize("lost", [{}, {"west": "Unmasking"}, {"north": "MaskedInput"}], ids=str)
def test_planted_values_are_nowhere_in_a_rounds_traffic(word_bits: WordBits, lost: Dropouts) -> None:
    encoding, vectors = planted(word_bits)
    own = needles(encoding, vectors["west"])
    assert len(own) > 8
    for scheme in (Plain(), Masking()):
        federation = Federation(5, scheme=scheme, encoding=encoding, vectors=vectors, seed=2)
        coordinator = federation.coordinator()
        federation.run(coordinator, lost)
        if scheme == Plain():
            # The control: there all of it is found, so the search works.
            assert found(own, coordinator.traffic()) == own
        else:
            assert not found(own | spellings(EXAMPLES) | spellings(LOSS), coordinator.traffic())


@each(ENCRYPTING)
@pytest.mark.parametrize("lost", [{}, {"west": "Opened"}, {"north": "MaskedInput"}], ids=str)
def test_planted_values_are_nowhere_in_the_traffic_of_ciphertexts(contract: Contract, lost: Dropouts) -> None:
    """Nor is any sum of vectors, that of all survivors included: the coordinator does not learn it."""
    encoding, vectors = planted(32)
    sums = subset_sums(list(vectors.values()))
    assert len(sums) == 2**5 - 1
    own = needles(encoding, vectors["west"]) | spellings(EXAMPLES) | spellings(LOSS)
    federation = contract.federation(5, encoding=encoding, vectors=vectors, seed=2)
    coordinator = federation.coordinator()
    opened = federation.run(coordinator, lost)
    assert opened.total.tobytes() in sums
    # In a megabyte that looks random, some four bytes are like some others by chance.
    assert not found({needle for needle in own | sums if len(needle) > 5}, coordinator.traffic())


@each(ENCRYPTING)
def test_traffic_of_ciphertexts_has_one_size_whatever_the_data(contract: Contract) -> None:
    """What is left of a silo is who said what, when, and how many bytes it had."""
    shapes = []
    most = SUM_LIMIT[32] // 5
    for extreme in (None, 0, most):
        vectors = (
            None
            if extreme is None
            else dict.fromkeys(Federation(5).roster.silos, np.full(LENGTH, extreme, np.uint32))
        )
        federation = contract.federation(5, vectors=vectors, seed=3)
        coordinator = federation.coordinator()
        federation.run(coordinator, {"west": "MaskedInput", **({"north": "Opened"} if FULL else {})})
        shapes.append(
            [
                (peer, type(message), *map(len, flat(wire.encode(message))))
                for peer, message in coordinator.log
            ]
        )
    assert shapes[0] == shapes[1] == shapes[2]


def test_planted_numbers_would_be_found() -> None:
    """The control of the raw spellings: sent as settings in clear, both numbers are seen."""
    clear = (("examples", int(EXAMPLES)), ("loss", LOSS))
    federation = Federation(5, seed=2, training=clear)
    coordinator = federation.coordinator()
    federation.run(coordinator)
    for value in (EXAMPLES, LOSS):
        assert found(spellings(value), coordinator.traffic())


def test_only_the_upload_depends_on_the_data() -> None:
    """With equal randomness and other data, every message but the upload is the same, byte for byte."""
    logs = []
    for seed in (1, 2):
        names = Federation(6).roster.silos
        vectors = {silo: words(5, 32, seed, slot, 9) for slot, silo in enumerate(names)}
        federation = Federation(6, vectors=vectors, seed=3)
        coordinator = federation.coordinator()
        federation.run(coordinator, {"west": "MaskedInput", "north": "Unmasking"})
        logs.append(coordinator.log)
    assert len(logs[0]) == len(logs[1])
    uploads = 0
    for (peer, one), (same, other) in zip(*logs, strict=True):
        assert peer == same
        assert type(one) is type(other)
        if isinstance(one, MaskedInput):
            uploads += 1
            assert [len(b) for b in flat(wire.encode(one))] == [len(b) for b in flat(wire.encode(other))]
            assert one.vector.digest != other.vector.digest
        elif not isinstance(one, SumOpened):
            assert wire.encode(one) == wire.encode(other)
    assert uploads == 5
