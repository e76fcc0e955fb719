"""What a coordinator adds with: a run whose messages nobody would take is refused before anybody trains."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from secagg.ckks.params import CKKS
from secagg.cohort import Cohort
from secagg.encrypted.cipher import SEAL_SIZE, Adder
from secagg.errors import ParameterError
from secagg.estimates import estimate
from secagg.keys.adders import adder_of, longest_payload
from secagg.keys.coordinator import EstablishedKey
from secagg.learning.bounds import Bounds
from secagg.learning.model import GlobalModel, SealedBase
from secagg.learning.run import Run
from secagg.learning.settings import TrainingPlan
from secagg.learning.strategies import FedAdam, FedAvg, Strategy
from secagg.messages import Ready, RoundOpened
from secagg.paillier.params import Paillier
from secagg.scheme import Scheme
from secagg.terms import (
    EncryptedParameters,
    PaillierParameters,
    ThresholdPaillierParameters,
    training_digest,
)
from secagg.wire import MAX_LENGTH
from tests.ceremonies import ROSTER, Ceremony
from tests.federations import CKKS_4096, PAILLIER, THRESHOLD_PAILLIER, Federation, encoding_of
from tests.paillier_keys import threshold_key

SHARED, SHARES = (Ceremony.of(scheme).run() for scheme in ("paillier", "threshold-paillier"))
Planned = Callable[[int], Adder]


def fitting(planned: Planned, length: int) -> int:
    """Return how many parameters the refusal of ``length`` says would fit."""
    with pytest.raises(ParameterError, match="as long as the longest that is taken") as refused:
        planned(length)
    assert "masking" in str(refused.value)
    (most,) = re.findall(r"at most ([\d,]+) parameters", str(refused.value))
    return int(most.replace(",", ""))


@pytest.mark.parametrize(
    ("n", "length"), [(4, 10**8), (30, 10**7), pytest.param(64, 10**7, marks=pytest.mark.full)]
)
def test_where_shares_open_all_uploads_fit_in_one_message_or_the_run_is_refused(n: int, length: int) -> None:
    key, _ = threshold_key(n, n - 1)
    document = replace(SHARES.document, key=key.id, material=key.to_bytes())

    def planned(length: int) -> Adder:
        return adder_of(document, encoding_of(n, length=length))

    most = fitting(planned, length)
    largest = planned(most)
    assert n * max(largest.upload.length, largest.part_size + SEAL_SIZE) <= MAX_LENGTH
    fitting(planned, int(1.15 * most))


def test_where_one_key_opens_a_sum_fits_in_one_message_or_the_run_is_refused() -> None:
    def planned(length: int) -> Adder:
        return adder_of(SHARED.document, encoding_of(30, length=length))

    planned(10**7)
    most = fitting(planned, 10**9)
    assert planned(most).total.length <= MAX_LENGTH
    fitting(planned, int(1.15 * most))


@pytest.mark.parametrize(
    ("key", "scheme"),
    [
        (SHARES, ThresholdPaillierParameters(Cohort.of(ROSTER.n), SHARES.document.key)),
        (SHARED, PaillierParameters(Cohort.of(ROSTER.n), SHARED.document.key)),
    ],
    ids=["ThresholdPaillier", "Paillier"],
)
def test_a_run_that_does_not_fit_is_never_begun(key: EstablishedKey, scheme: EncryptedParameters) -> None:
    def planned(length: int) -> Adder:
        return adder_of(key.document, run_of(key, scheme, length).terms().encoding)

    planned(fitting(planned, 10**9))


@pytest.mark.parametrize("scheme", [PAILLIER, THRESHOLD_PAILLIER, CKKS(), CKKS_4096], ids=str)
@pytest.mark.parametrize("length", [10, 5000])
def test_the_longest_payload_is_estimated_without_a_key(scheme: Scheme, length: int) -> None:
    federation = Federation(4, scheme=scheme, encoding=encoding_of(4, length=length))
    real = longest_payload(federation.adder, silos=4)
    (cost,) = estimate(length, 4, scheme=scheme).costs
    # Proofs of parts are estimated to be as long as they may be.
    assert 0 <= cost.longest - real <= 4 * 4096


def test_a_run_whose_model_no_silo_could_send_another_is_never_begun() -> None:
    scheme = PaillierParameters(Cohort.of(ROSTER.n), SHARED.document.key)
    most = (MAX_LENGTH - SEAL_SIZE) // 24  # Weights and two moments.
    run_of(SHARED, scheme, most, FedAdam())
    with pytest.raises(ParameterError, match="FedAdam state is longer than one silo can send another"):
        run_of(SHARED, scheme, most + 1, FedAdam())


def test_a_phase_waits_for_what_silos_compute_in_it() -> None:
    run = run_of(SHARED, PaillierParameters(Cohort.of(ROSTER.n), SHARED.document.key), 10**6)
    run.model = GlobalModel(1, np.zeros(10**6))
    coordinator = run.next_round()
    coordinator.open(0.0)
    for silo in ROSTER.silos:
        coordinator.receive(silo, Ready(training_digest(run.terms())))
    (opened, *_) = coordinator.advance(1.0).output.values()
    assert isinstance(opened, RoundOpened)
    (cost,) = estimate(10**6, ROSTER.n, scheme=Paillier()).costs
    assert opened.seconds == pytest.approx(60.0 + 2 * cost.silo.seconds, rel=1e-3)
    assert cost.silo.seconds > 60


def run_of(
    key: EstablishedKey, scheme: EncryptedParameters, length: int, strategy: Strategy | None = None
) -> Run[SealedBase | GlobalModel]:
    return Run(
        ROSTER,
        scheme=scheme,
        key=key,
        plan=TrainingPlan(strategy=strategy or FedAvg(), length=length),
        bounds=Bounds(
            cohort=ROSTER.n,
            metrics=("loss",),
            clip=1.0,
            weight_cap=1000.0,
            least_total_weight=1000.0,
            precision=1e-3,
            metric_bound=10.0,
            word_bits=None,
        ),
        rounds=2,
        model=SealedBase(1, length, bytes(32)),
        keep=lambda _base, _record: pytest.fail("nothing is opened"),
    )
