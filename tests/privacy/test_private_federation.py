"""A federation with differential privacy: what it refuses, what it says, and one sum whatever protects it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from secagg.ckks.params import CKKS
from secagg.errors import ParameterError, SiloLeftOut
from secagg.learning.card import model_card
from secagg.learning.federation import Federation
from secagg.learning.history import History
from secagg.learning.job import Job
from secagg.learning.means import worst_error_of
from secagg.learning.strategies import FedAvg
from secagg.masking.params import Masking
from secagg.names import SiloId
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.plain import Plain
from secagg.privacy.calibration import Privacy
from secagg.privacy.noising import decode_noised
from secagg.privacy.params import DistributedDP, LocalDPSGD
from secagg.privacy.spent import shown_epsilon
from secagg.report import NO_DIFFERENTIAL_PRIVACY
from secagg.rounds.driver import Phase
from secagg.rounds.memory import Memory
from secagg.scheme import Scheme
from secagg.session import Aggregate
from secagg.terms import RecordNoise, SiloNoise, Terms
from tests.counts import FULL
from tests.federations import CKKS_4096, NAMES, PAILLIER, THRESHOLD_PAILLIER
from tests.paillier_keys import secret_key, threshold_key
from tests.privacy.noised import Mover, Noised

TARGET = Privacy(epsilon=2.0, delta=1e-5, rounds=2)
SILO = DistributedDP(TARGET, l2_clip_norm=1.0)
RECORD = DistributedDP(TARGET, unit="record", sampling_rate=1.0, batch_size=8)
LOCAL = LocalDPSGD(TARGET, sampling_rate=1.0)
MODES = (SILO, RECORD, LOCAL)


class Watch:
    """A view that keeps what the coordinator is sent and what it opens."""

    def __init__(self) -> None:
        self.sent: list[tuple[SiloId, str]] = []
        self.sums: list[tuple[Terms, Aggregate]] = []

    def received(self, silo: SiloId, message: object) -> None:
        self.sent.append((silo, type(message).__name__))

    def opened(self, terms: Terms, aggregate: Aggregate) -> None:
        self.sums.append((terms, aggregate))


def movers(n: int = 4, **named: Any) -> dict[SiloId, Mover]:
    return {name: Mover(np.full(5, 0.1), **named) for name in NAMES[:n]}


def federation(mode: Any = SILO, silos: Any = None, **named: Any) -> Federation:
    return Federation(movers() if silos is None else silos, privacy=mode, seed=3, **named)


def run(asked: Federation, rounds: int = 2, **named: Any) -> History:
    return asked.run(rounds, progress=False, **named)


@pytest.fixture
def _small_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paillier keys that were made before: to find safe primes takes seconds."""
    whole = secret_key()
    monkeypatch.setattr("secagg.paillier.secret.SecretKey.generate", lambda bits, random: whole)
    monkeypatch.setattr(
        "secagg.paillier.shares.deal",
        lambda *, parties, threshold, bits, random: threshold_key(parties, threshold),
    )


# --- refused ------------------------------------------------------------------------------------------------


class Bare:
    """A trainer that can neither sum gradients nor train privately."""

    def __init__(self) -> None:
        self.moved = np.full(5, 0.1)

    train, evaluate, initial = Mover.train, Mover.evaluate, Mover.initial


@pytest.mark.parametrize("mode", ["silo", 1.0, TARGET, object()])
def test_what_is_no_mode_is_refused(mode: Any) -> None:
    with pytest.raises(ParameterError, match=r"privacy is .*, must be LocalDPSGD"):
        federation(mode)


@pytest.mark.parametrize("mode", MODES)
def test_metrics_are_refused_beside_noise(mode: Any) -> None:
    with pytest.raises(
        ParameterError, match="metrics would leave without noise and void what privacy promises"
    ):
        federation(mode, metrics=("loss",))
    assert federation(mode, metrics=()).metrics == ()
    assert federation(mode).metrics == ()


@pytest.mark.parametrize("mode", MODES)
def test_more_rounds_than_the_target_is_for_are_refused(mode: Any) -> None:
    silos = movers()
    with pytest.raises(ParameterError, match="3 rounds are asked for, and the privacy target is for 2"):
        run(federation(mode, silos), 3)


@pytest.mark.parametrize(("mode", "method"), [(RECORD, "gradient_sum"), (LOCAL, "train_privately")])
def test_a_trainer_without_the_method_is_refused_before_anybody_trains(mode: Any, method: str) -> None:
    silos: dict[SiloId, Any] = {**movers(3), "east": Bare()}
    watch = Watch()
    with pytest.raises(ParameterError, match=rf"east: Bare has no {method}\(\)"):
        run(federation(mode, silos), view=watch)
    assert watch.sent == []
    # A whole update needs nothing but train().
    assert len(run(federation(SILO, silos), 1)) == 1


@pytest.mark.parametrize("mode", [SILO, RECORD, LOCAL])
def test_more_memory_than_there_may_be_is_refused_before_anybody_trains(mode: Any) -> None:
    watch = Watch()
    with pytest.raises(ParameterError, match="memory_limit is 1 kB"):
        run(federation(mode, memory_limit=1000), view=watch)
    assert watch.sent == []


@pytest.mark.parametrize("mode", [SILO, RECORD])
def test_shares_under_no_protection_are_refused(mode: Any) -> None:
    with pytest.raises(ParameterError, match="without protection the coordinator would read each silo's"):
        run(federation(mode, scheme=Plain()))


def test_local_noise_needs_no_protection() -> None:
    report = run(federation(LOCAL, scheme=Plain())).report()
    assert "against whoever reads updates or models" in " ".join(report.split())


# --- what it opens and says ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_evaluated_and_no_sum_of_metrics_follows(mode: Any) -> None:
    silos, watch = movers(), Watch()
    history = run(federation(mode, silos), view=watch)
    assert [trainer.evaluated for trainer in silos.values()] == [0] * 4
    assert [terms.kind for terms, _ in watch.sums] == ["train", "train"]
    assert history.metric_names == ()
    assert history.records[-1].report.metric_error is None


@pytest.mark.parametrize("mode", [SILO, RECORD])
def test_a_sum_with_shares_tells_no_weight_and_no_share_of_clipped_entries(mode: Any) -> None:
    report = run(federation(mode)).records[0].report
    assert (report.total_weight, report.clipped_share, report.saturated, report.unmet_weight) == (None,) * 4
    assert "total weight" not in report.text()


SCHEMES: tuple[Scheme, ...] = (
    Masking(),
    Paillier(bits=2048),
    ThresholdPaillier(bits=2048),
    CKKS(degree=4096),
)


REPORTED = [(scheme, mode) for scheme in SCHEMES for mode in (SILO, RECORD)]


@pytest.mark.usefixtures("_small_keys")
@pytest.mark.parametrize(("scheme", "mode"), REPORTED if FULL else [*REPORTED[:4:3], REPORTED[7]])
def test_reports_and_cards_say_what_is_promised(scheme: Scheme, mode: Any, tmp_path: Path) -> None:
    history = run(federation(mode, scheme=scheme))
    spent = history.records[-1].report.spent
    assert spent is not None
    said = f"epsilon {shown_epsilon(spent.epsilon)} at delta 1e-05 for one "
    for text in (history.report(), history.records[-1].report.text()):
        flat = " ".join(text.split())
        assert said in flat
        assert spent.sentence() in flat
        assert NO_DIFFERENTIAL_PRIVACY not in flat
    assert ("against a silo and the coordinator together" in spent.sentence()) is isinstance(
        scheme, Paillier | CKKS
    )
    # Once a round; four silos are more than the three that the noise is made for.
    said_of = [record.report.spent for record in history.records]
    assert [one.releases[0].count for one in said_of if one is not None] == [1, 2]
    assert spent.epsilon < 0.9 * mode.target.epsilon

    model = tmp_path / "model.safetensors"
    model.write_bytes(b"model")
    card = model_card(history.records, model, parameters=5)
    assert card["privacy"] == spent.sentence()
    assert card["differential_privacy"]["unit"] == mode.unit
    assert card["differential_privacy"]["neighboring_relation"] == "replaced by an empty one"
    assert card["differential_privacy"]["epsilon"] == spent.epsilon


def test_without_privacy_reports_and_cards_say_that_there_is_none(tmp_path: Path) -> None:
    history = run(Federation(movers(), seed=3))
    assert NO_DIFFERENTIAL_PRIVACY in " ".join(history.report().split())
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"model")
    card = model_card(history.records, model, parameters=5)
    assert card["differential_privacy"] is None
    assert card["privacy"] == NO_DIFFERENTIAL_PRIVACY


@pytest.mark.parametrize("mode", [SILO, RECORD])
def test_epsilon_is_that_of_the_silos_that_were_there(mode: Any) -> None:
    lost: dict[int, dict[SiloId, Phase]] = {1: {"east": "MaskedInput"}, 2: {"south": "MaskedInput"}}
    fewest = run(federation(mode), dropouts=lost).records[-1].report.spent
    everybody = run(federation(mode)).records[-1].report.spent
    assert fewest is not None
    assert everybody is not None
    assert everybody.epsilon < fewest.epsilon <= mode.target.epsilon
    assert fewest.epsilon == pytest.approx(mode.target.epsilon, rel=1e-3)


def test_a_second_release_is_counted_whoever_was_in_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been opened, over as few silos as may be, where nobody said so."""
    begun: list[Any] = []
    whole = Job.round

    def remembered(self: Any, *arguments: Any, **named: Any) -> None:
        if self._run.number == 1:
            self._run._memory = Memory().next_release()
        whole(self, *arguments, **named)
        begun.append(self._ledgers)

    monkeypatch.setattr(Job, "round", remembered)
    watch = Watch()
    first, second = run(federation(SILO), view=watch).records
    assert [terms.release for terms, _ in watch.sums] == [2, 1]
    for record, releases in ((first, 2), (second, 3)):
        spent = record.report.spent
        assert spent is not None
        assert sum(release.count for release in spent.releases) == releases
    assert first.report.spent is not None
    least, most = sorted(release.noise_multiplier for release in first.report.spent.releases)
    assert most / least == pytest.approx(np.sqrt(3 / 2), rel=1e-3)  # Four silos and three, less a colluder.
    # A silo is charged for what it releases itself: once in either round.
    assert [len(ledger.entries) for ledger in begun[-1].values()] == [2] * 4


@pytest.mark.parametrize("mode", MODES)
def test_every_silo_is_charged_once_a_round(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ledgers: list[Any] = []
    made = Job.__init__

    def remembered(self: Any, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        ledgers.append(self._ledgers)

    monkeypatch.setattr(Job, "__init__", remembered)
    run(federation(mode))
    unit = "silo" if mode is SILO else "record"
    for ledger in ledgers[0].values():
        assert [(entry.round, entry.release) for entry in ledger.entries] == [(1, 1), (2, 1)]
        assert ledger.spent(unit) == pytest.approx(TARGET.epsilon, rel=2e-3)


def test_an_update_is_clipped_as_a_whole_and_the_mean_is_over_silos() -> None:
    """At an epsilon that leaves next to no noise the model moves by the mean of the clipped updates."""
    silos = {
        name: Mover(np.full(5, size)) for name, size in zip(NAMES[:4], (0.01, 0.02, 5.0, 50.0), strict=True)
    }
    mode = DistributedDP(Privacy(300.0, 1e-3, 1), l2_clip_norm=1.0)
    model = run(federation(mode, silos), 1).model
    unit = 1 / np.sqrt(5)
    assert np.abs(model - (0.01 + 0.02 + 2 * unit) / 4).max() < 0.25
    assert np.abs(np.mean(model) - (0.01 + 0.02 + 2 * unit) / 4) < 0.15


def test_a_step_over_records_goes_against_the_sum_of_gradients_over_the_batch() -> None:
    silos = movers(4, records=8)
    mode = DistributedDP(
        Privacy(300.0, 1e-3, 1), unit="record", l2_clip_norm=1.0, sampling_rate=1.0, batch_size=32
    )
    model = run(federation(mode, silos, strategy=FedAvg(0.5)), 1).model
    # 32 records move each entry by 0.1, over a batch of 32, times half a step.
    assert np.abs(model - 0.05).max() < 0.02


def test_a_silo_whose_trainer_gives_nan_is_left_out_before_its_noise() -> None:
    silos = {**movers(3), "east": Mover(np.array([0.0, np.nan, 0.0, 0.0, 0.0]))}
    watch = Watch()
    with pytest.warns(SiloLeftOut, match="NaN"):
        run(federation(SILO, silos), 1, view=watch)
    assert ("east", "MaskedInput") not in watch.sent
    assert ("north", "MaskedInput") in watch.sent


# --- one sum, whatever protects it --------------------------------------------------------------------------

UPDATES = [np.random.default_rng(slot).normal(size=6) for slot in range(4)]
PROTECTED: tuple[Scheme, ...] = (Masking(), PAILLIER, THRESHOLD_PAILLIER, CKKS_4096)


def opened(scheme: Scheme, mode: Any, lost: SiloId | None) -> Iterator[Any]:
    """Yield the silos in the sum, the sum, and what silos added to it."""
    noised = Noised(UPDATES, mode, scheme=scheme)
    phase: Phase = "MaskedInput" if isinstance(scheme, Masking) else "EncryptedInput"
    aggregate = noised.run({} if lost is None else {lost: phase})
    vectors = [noised.signed(noised.vector(silo)) for silo in aggregate.survivors]
    yield aggregate.survivors
    yield noised.signed(aggregate.total).tolist()
    yield np.sum(vectors, axis=0).tolist()
    noise = noised.terms.privacy
    assert isinstance(noise, SiloNoise | RecordNoise)
    mean = decode_noised(noised.terms.encoding, noise, aggregate.total, silos=len(aggregate.survivors))
    assert mean.values is not None
    yield mean.values.tolist()


SUMS = [(SILO, None), (RECORD, "west"), (SILO, "west"), (RECORD, None)]


@pytest.mark.parametrize(("mode", "lost"), SUMS if FULL else SUMS[:2])
def test_every_scheme_opens_the_same_integers(mode: Any, lost: SiloId | None) -> None:
    """With the same noise the sum is the same, bit for bit: the sum of what the silos added, and no other."""
    (masked, *others) = (list(opened(scheme, mode, lost)) for scheme in PROTECTED)
    assert all(other == masked for other in others)
    survivors, total, added, _ = masked
    assert survivors == tuple(silo for silo in NAMES[:4] if silo != lost)
    assert total == added


@pytest.mark.parametrize(("mode", "divisor"), [(SILO, 3.0), (RECORD, 8.0)])
def test_rounding_is_bounded_where_the_sum_is_not_known(mode: Any, divisor: float) -> None:
    """A coordinator that opens nothing knows how coarse the steps are, and claims no other precision."""
    terms = Noised(UPDATES, mode).terms
    step = terms.encoding.segments[0].step
    assert worst_error_of(terms, silos=3, planned=1e-4) == 3 * step / divisor
    assert worst_error_of(msgspec.structs.replace(terms, privacy=None), silos=3, planned=1e-4) == 1e-4
