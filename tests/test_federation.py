"""Federation over the real protocol: one model everywhere, exact metrics, nothing of one silo in clear."""

from __future__ import annotations

import inspect
import io
import struct
import sys
import warnings
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from secagg import wire
from secagg.ckks.params import CKKS
from secagg.cohort import Cohort
from secagg.errors import ParameterError, SiloLeftOut, TooFewSilos, TrainerFailed
from secagg.learning import job
from secagg.learning.federation import Federation
from secagg.learning.history import History
from secagg.learning.progress import Progress
from secagg.learning.strategies import FedAdam, FedAvg, FedProx, FedYogi, Strategy
from secagg.learning.trainer import Update
from secagg.masking.params import Masking
from secagg.messages import ConsistencyCheck, FromSilo, MaskedInput, PlainInput
from secagg.names import SiloId, WordBits
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.payload import Frame
from secagg.plain import Plain
from secagg.rounds.driver import Phase, phases_of
from secagg.scheme import Scheme
from secagg.session import Aggregate
from secagg.simulation import SimulatedSilo
from secagg.terms import SchemeTag, Terms
from tests.learners import NAMES, WEIGHTS, Line, fails, lines
from tests.paillier_keys import secret_key, threshold_key

STRATEGIES: tuple[Strategy, ...] = (FedAvg(), FedAvg(0.5), FedProx(0.3), FedAdam(0.1), FedYogi(0.1))


MASKING = phases_of("masking")
TAGS: Mapping[Scheme, SchemeTag] = {
    Masking(): "masking",
    Paillier(bits=2048): "paillier",
    ThresholdPaillier(bits=2048): "threshold-paillier",
    CKKS(degree=4096): "ckks",
    Plain(): "plain",
}


@pytest.fixture
def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small Paillier keys that were made before: to find safe primes takes seconds."""
    whole = secret_key()
    monkeypatch.setattr("secagg.paillier.secret.SecretKey.generate", lambda bits, random: whole)
    monkeypatch.setattr(
        "secagg.paillier.shares.deal",
        lambda *, parties, threshold, bits, random: threshold_key(parties, threshold),
    )


METRIC_BOUND = 100.0  # the default of Federation


def quick(silos: Mapping[SiloId, Any] | int = 4, **named: Any) -> Federation:
    trainers = lines(silos) if isinstance(silos, int) else silos
    return Federation(trainers, **({"seed": 5} | named))


def run(federation: Federation, rounds: int = 2, **named: Any) -> History:
    return federation.run(rounds, **({"progress": False} | named))


class Recorder:
    """A view that keeps all that the coordinator sees, as the bytes it received."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.messages: list[tuple[SiloId, FromSilo]] = []
        self.sums: list[tuple[Terms, Aggregate]] = []

    def received(self, silo: SiloId, message: FromSilo) -> None:
        header, payload = wire.encode(message)
        self.frames.append(header + (b"" if payload is None else bytes(payload[:])))
        self.messages.append((silo, message))

    def opened(self, terms: Terms, aggregate: Aggregate) -> None:
        self.sums.append((terms, aggregate))


# --- what was planned for --------------------------------------------------------------------------------


def test_a_run_says_where_its_weight_was_below_the_planned_one() -> None:
    short = run(quick(lines(4, examples=50), least_total_weight=1e9)).records
    assert {record.report.unmet_weight for record in short} == {400_000.0}, "more than the caps cannot be had"
    assert "total weight 200, below the 400,000 that precision" in " ".join(short[0].report.text().split())
    # Evaluations weigh half in ``Line``, so the sum of metrics alone has 100.
    held = run(quick(lines(4, examples=50), least_total_weight=100, precision=1e-3)).records
    assert [record.report.kind for record in held] == ["train", "train", "metrics"]
    assert {record.report.unmet_weight for record in held} == {None}
    mixed = run(quick(lines(4, examples=50), least_total_weight=150, precision=1e-3)).records
    assert [record.report.unmet_weight for record in mixed] == [None, None, 150.0]


# --- one model everywhere -------------------------------------------------------------------------------


@st.composite
def schedules(draw: st.DrawFn) -> tuple[int, dict[int, dict[SiloId, Phase]]]:
    """A number of silos, and losses in rounds 1 to 3 that every round survives."""
    n = draw(st.integers(4, 7))
    most = Cohort.of(n).max_dropouts
    lost = st.dictionaries(st.sampled_from(NAMES[:n]), st.sampled_from(MASKING), max_size=most)
    return n, {number: draw(lost) for number in (1, 2, 3)}


@given(
    schedule=schedules(),
    strategy=st.sampled_from(STRATEGIES),
    word_bits=st.sampled_from(get_args(WordBits)),
    seed=st.integers(0, 2**63 - 1),
)
def test_masking_gives_the_model_of_plain_bit_for_bit(
    schedule: tuple[int, dict[int, dict[SiloId, Phase]]],
    strategy: Strategy,
    word_bits: WordBits,
    seed: int,
) -> None:
    n, dropouts = schedule
    # Under Plain nothing is lost after the input; lost from the sum are those that never sent it.
    early = {
        number: {
            silo: phase for silo, phase in lost.items() if phase not in {"ConsistencyCheck", "Unmasking"}
        }
        for number, lost in dropouts.items()
    }
    named: dict[str, Any] = {"strategy": strategy, "word_bits": word_bits, "seed": seed}
    masked = run(quick(n, scheme=Masking(), **named), dropouts=dropouts)
    plain = run(quick(n, scheme=Plain(), **named), dropouts=early)
    assert [r.report.survivors for r in masked.records] == [r.report.survivors for r in plain.records]
    assert masked.model.tobytes() == plain.model.tobytes()
    assert [r.metrics for r in masked.records] == [r.metrics for r in plain.records]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("phase", MASKING)
def test_every_silo_ends_with_the_model_of_the_coordinator(strategy: Strategy, phase: Phase) -> None:
    """A silo that was lost catches up by hash in the next round; the last one is the metrics-only sum."""
    trainers = lines(4)
    recorder = Recorder()
    lost: dict[int, dict[SiloId, Phase]] = {1: {"west": phase}, 3: {"north": phase}}
    history = run(quick(trainers, strategy=strategy), 3, dropouts=lost, view=recorder)
    for name, trainer in trainers.items():
        measured, _ = trainer.evaluated[-1]
        assert measured.tobytes() == history.model.tobytes(), name
    asked = [silo for silo, message in recorder.messages if type(message).__name__ == "BaseRequested"]
    assert asked == [*NAMES[:4], "west", "north"]


@pytest.mark.parametrize("phase", phases_of("ckks"))
def test_every_silo_ends_with_the_same_model_where_the_coordinator_has_none(phase: Phase) -> None:
    """As above, but a silo that was lost is sent the model by a peer, sealed."""
    trainers = lines(4)
    recorder = Recorder()
    lost: dict[int, dict[SiloId, Phase]] = {1: {"west": phase}, 3: {"north": phase}}
    history = run(quick(trainers, scheme=CKKS(degree=4096)), 3, dropouts=lost, view=recorder)
    for name, trainer in trainers.items():
        measured, _ = trainer.evaluated[-1]
        assert measured.tobytes() == history.model.tobytes(), name
    print(phase, [(s, type(m).__name__) for s, m in recorder.messages if "Base" in type(m).__name__])
    model = history.model.tobytes()
    assert not any(model in seen for seen in recorder.frames)


class Flaky(SimulatedSilo):
    """A silo whose first signature of a survivor set is lost on the way."""

    flaky = True

    def deliver(self, frame: Frame) -> Frame | None:
        reply = super().deliver(frame)
        if self.flaky and reply is not None and isinstance(wire.decode_from_silo(*reply), ConsistencyCheck):
            self.flaky = False
            return None
        return reply


def test_a_silo_trains_once_a_round_however_many_attempts_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "SimulatedSilo", Flaky)
    trainers = lines(4)
    history = run(quick(trainers), 2)
    assert [record.report.attempts for record in history.records] == [2, 1, 1]
    assert [len(trainer.trained) for trainer in trainers.values()] == [2] * 4
    assert history.model.tobytes() == run(quick(), 2).model.tobytes()


def test_a_trainer_is_told_its_round_and_cannot_write_to_the_model() -> None:
    trainer = Line()
    silos = {**lines(4), "north": trainer}
    run(quick(silos, strategy=FedProx(0.25), epochs=3, learning_rate=0.125), 2)
    assert [s.round for s in trainer.trained] == [1, 2]
    assert {(s.epochs, s.learning_rate, s.proximal_mu) for s in trainer.trained} == {(3, 0.125, 0.25)}
    assert len({s.seed for s in trainer.trained}) == 2
    assert not any(weights.flags.writeable for weights in trainer.given)


def test_the_proximal_term_holds_silos_back() -> None:
    start = np.zeros(WEIGHTS)

    def drift(strategy: Strategy) -> float:
        history = run(quick(strategy=strategy, initial=start, epochs=5), 1)
        return float(np.linalg.norm(history.model - start))

    assert drift(FedProx(50.0)) < 0.5 * drift(FedProx(1e-9))


def test_one_round_is_the_weighted_mean_of_what_the_silos_trained() -> None:
    trainers = lines(5)
    start = np.linspace(-1.0, 1.0, WEIGHTS)
    history = run(quick(trainers, initial=start), 1, dropouts={1: {"west": "MaskedInput"}})
    settings = trainers["north"].trained[0]
    stayed = [trainer for name, trainer in trainers.items() if name != "west"]
    deltas = [Line(slot).train(start, settings).weights - start for slot in (0, 1, 3, 4)]
    exact = start + np.average(deltas, axis=0, weights=[trainer.examples for trainer in stayed])
    assert np.abs(history.model - exact).max() <= history.records[0].report.worst_error
    assert history.records[0].report.worst_error < 1e-4


# --- metrics --------------------------------------------------------------------------------------------


@example(lost="north", phase="Training", seed=150204)  # one loss of the start model is beyond the bound
@given(lost=st.sampled_from(NAMES[:4]), phase=st.sampled_from(MASKING), seed=st.integers(0, 2**20))
def test_metrics_are_the_weighted_means_within_the_printed_bound(
    lost: SiloId, phase: Phase, seed: int
) -> None:
    trainers = lines(4)
    history = run(quick(trainers, seed=seed, metrics=["loss"]), 2, dropouts={2: {lost: phase}})
    assert [record.completed for record in history.records] == [0, 1, 2]
    for record in history.records:
        # The sum of round r + 1 measures the model after r rounds, and the list of calls begins with it.
        counted = [trainers[silo] for silo in record.report.survivors]
        # A loss beyond the metric bound is cut to it, and counted; the error's bound is for the cut values.
        values = [min(t.evaluated[record.completed][1]["loss"], METRIC_BOUND) for t in counted]
        weights = [Fraction(t.examples / 2) for t in counted]
        weighted = zip(weights, values, strict=True)
        exact = sum((w * Fraction(v) for w, v in weighted), Fraction(0)) / sum(weights)
        bound = record.report.metric_error
        assert bound is not None
        assert abs(Fraction(record.metrics["loss"]) - exact) <= Fraction(bound)
        assert bound < 1e-2
    assert f"{max(r.report.metric_error or 0 for r in history.records):.1e} in a metric" in " ".join(
        history.report().split()
    )


def test_metrics_beyond_their_range_are_flagged_wherever_they_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    silos = lines(4)
    silos["west"].metrics = {"size": 1e6}
    for name in ("north", "south", "east"):
        silos[name].metrics = {"size": 3.0}
    history = quick(silos).run(1)
    flag = "1 metric value out of range: raise metric_bound"
    assert capsys.readouterr().out.count(flag) == 2
    assert [flag in record.report.text() for record in history.records] == [True, True]
    assert "2 metric values out of range: raise metric_bound; first seen in round 1" in " ".join(
        history.report().split()
    )
    wide = quick(silos, metric_bound=2e6).run(1)
    assert "out of range" not in wide.report() + capsys.readouterr().out
    assert wide.final_metrics["size"] > 1e5


def test_without_metrics_nothing_is_evaluated_and_no_metrics_only_sum_opened() -> None:
    trainers = lines(4)
    history = run(quick(trainers, metrics=()), 2)
    assert not any(trainer.evaluated for trainer in trainers.values())
    assert history.model.tobytes() == run(quick(), 2).model.tobytes()
    assert [record.report.kind for record in history.records] == ["train", "train"]
    assert history.metric_names == ()
    assert history.records[0].report.saturated is None


def test_only_the_metrics_that_are_asked_for_are_opened() -> None:
    silos = lines(4, metrics={"size": 3.0})
    assert run(quick(silos, metrics=["size"]), 1).metric_names == ("size",)
    assert run(quick(silos), 1).metric_names == ("loss", "size")
    with pytest.raises(TooFewSilos) as halted:
        run(quick(silos, metrics=["dice"]), 1)
    assert "metrics must name exactly: dice" in str(halted.value.__cause__)


# --- nothing of one silo in clear -----------------------------------------------------------------------


def planted(scheme: Scheme) -> Iterator[bool]:
    """Yield, for each planted figure of one silo, whether it is in what the coordinator received."""
    # A cap of 1 << 20 makes weight / cap exact, so that its encoded form is known to the bit.
    marked = {"accuracy": 0.7265625}
    silos = lines(4, metrics={"accuracy": 0.5})
    silos["west"].metrics, silos["west"].examples = marked, 48_611.0
    recorder = Recorder()
    run(quick(silos, scheme=scheme, weight_cap=float(1 << 20)), 1, view=recorder)
    traffic = b"\x00".join(recorder.frames)
    encoding = recorder.sums[0][0].encoding
    places = {segment.name: (segment, place.start) for segment, place in encoding.slices()}
    share, evaluation = 48_611.0 / (1 << 20), 48_611.0 / 2 / (1 << 20)
    for name, value in {
        "weight": share,
        "evaluation_weight": evaluation,
        "metric:accuracy": evaluation * marked["accuracy"],
    }.items():
        segment, _ = places[name]
        word = round(value * 2**segment.fraction_bits)
        yield word.to_bytes(encoding.word_bits // 8, "little") in traffic
    for figure in (48_611.0, marked["accuracy"]):
        yield struct.pack("<d", figure) in traffic or struct.pack(">d", figure) in traffic


def test_no_weight_metric_or_count_of_one_silo_is_in_clear() -> None:
    encoded, raw = slice(0, 3), slice(3, 5)
    masked, plain = list(planted(Masking())), list(planted(Plain()))
    assert not any(masked)
    assert all(plain[encoded]), "the control: under Plain the coordinator reads every figure"
    assert not any(plain[raw]), "also under Plain figures travel only as entries of the vector"


def test_a_view_is_told_uploads_and_sums() -> None:
    recorder = Recorder()
    history = run(quick(), 2, dropouts={1: {"west": "MaskedInput"}}, view=recorder)
    uploads = [silo for silo, message in recorder.messages if isinstance(message, MaskedInput)]
    assert uploads == ["north", "south", "east", *NAMES[:4], *NAMES[:4]]
    assert [terms.kind for terms, _ in recorder.sums] == ["train", "train", "metrics"]
    assert [a.survivors for _, a in recorder.sums] == [r.report.survivors for r in history.records]
    plain = Recorder()
    run(quick(scheme=Plain()), 1, view=plain)
    assert sum(isinstance(message, PlainInput) for _, message in plain.messages) == 8


# --- repeating and continuing ---------------------------------------------------------------------------


def test_a_seed_repeats_a_run_and_none_is_a_fresh_one() -> None:
    federation = quick()
    first, again = run(federation), run(federation)
    assert first.model.tobytes() == again.model.tobytes() == run(quick()).model.tobytes()
    assert first.model.tobytes() != run(quick(seed=6)).model.tobytes()
    fresh = quick(seed=None)
    assert run(fresh).model.tobytes() != run(fresh).model.tobytes()


def test_initial_weights_are_where_the_run_begins() -> None:
    start = np.full(WEIGHTS, 0.25)
    trainers = lines(4)
    history = run(quick(trainers, initial=start), 1)
    assert trainers["north"].given[0].tobytes() == start.tobytes()
    assert start.flags.writeable
    onwards = lines(4)
    run(quick(onwards, initial=history.model), 1)
    assert onwards["north"].given[0].tobytes() == history.model.tobytes()


class Bare:
    """A trainer without ``initial``."""

    def __init__(self, line: Line) -> None:
        self.train, self.evaluate = line.train, line.evaluate


def test_the_first_model_comes_from_whichever_trainer_can_make_one() -> None:
    silos: dict[SiloId, Any] = dict(lines(4))
    silos["north"] = Bare(Line(0))
    assert run(quick(silos)).model.tobytes() == run(quick()).model.tobytes()
    with pytest.raises(ParameterError, match=r"give Federation\(initial=weights\)"):
        run(quick({name: Bare(line) for name, line in lines(4).items()}))


def test_history_survives_an_error_and_ctrl_c() -> None:
    federation = quick()
    assert federation.history is None
    with pytest.raises(TooFewSilos):
        run(federation, 3, dropouts={3: dict.fromkeys(NAMES[:3], "MaskedInput")})
    kept = federation.history
    assert kept is not None
    assert len(kept) == 2
    assert kept.model.tobytes() == run(quick(), 2).model.tobytes()

    silos = lines(4)
    silos["west"].spoil = interrupt_in(silos["west"], 2)
    stopped = quick(silos)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, 3)
    assert stopped.history is not None
    assert len(stopped.history) == 1


def interrupt_in(trainer: Line, number: int) -> Any:
    def spoil(weights: Any) -> Any:
        if trainer.trained[-1].round == number:
            raise KeyboardInterrupt
        return weights

    return spoil


# --- silos that fail ------------------------------------------------------------------------------------


def test_a_run_goes_on_without_a_silo_whose_trainer_fails_and_says_so_once() -> None:
    federation = quick(lines(4, {"west": fails}))
    with pytest.warns(SiloLeftOut) as caught:
        history = federation.run(3, progress=False)
    (calling,) = inspect.getsource(sys.modules[__name__]).splitlines()[
        caught[0].lineno - 1 : caught[0].lineno
    ]
    assert calling.strip() == "history = federation.run(3, progress=False)"
    assert [warning.filename for warning in caught] == [__file__]
    assert str(caught[0].message).startswith(
        "round 1 went on without west\nx SA-2301  west left round 1: its trainer raised an error\n"
    )
    assert "4711" not in str(caught[0].message)
    assert [r.report.dropouts for r in history.records] == [{"west": "refused: trainer"}] * 3 + [{}]
    assert "lost west (refused: trainer) in 3 sums, round 1 to round 3" in " ".join(history.report().split())


def test_a_trainer_that_recovers_is_back_in_the_next_round() -> None:
    silos = lines(4)

    def once(weights: Any) -> Any:
        return fails(weights) if len(silos["west"].trained) == 1 else weights

    silos["west"].spoil = once
    with pytest.warns(SiloLeftOut, match="round 1 went on without west"):
        history = run(quick(silos), 2)
    assert [len(record.report.survivors) for record in history.records] == [3, 4, 4]
    assert silos["west"].evaluated[-1][0].tobytes() == history.model.tobytes()


def test_the_metric_names_come_from_the_first_trainer_that_evaluates() -> None:
    class Blind(Line):
        def evaluate(self, weights: Any) -> Any:
            raise RuntimeError("no validation data")

    silos: dict[SiloId, Line] = {**lines(4), "north": Blind(0)}
    with pytest.warns(SiloLeftOut, match="north left round 1"):
        history = run(quick(silos), 1)
    assert history.metric_names == ("loss",)
    assert "north" not in history.records[0].report.survivors
    with pytest.raises(TrainerFailed, match=r"north: evaluate\(\) raised RuntimeError"):
        run(quick(dict.fromkeys(NAMES[:4], Blind(0))), 1)


# --- parameters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ({"silos": lines(2)}, "n = 2 silos"),
        ({"scheme": Masking(colluders=3)}, "c = 3"),
        ({"scheme": Masking(threshold=5)}, "t = 5"),
        ({"scheme": Masking(min_honest=4)}, "k_min = 4"),
        ({"clip": 0.0}, "clip is 0"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"clip": 1e30}, "raise least_total_weight"),
        ({"precision": 0.0}, "precision"),
        ({"least_total_weight": 0.0}, "least_total_weight"),
        ({"weight_cap": -1.0}, "weight_cap is -1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"word_bits": 16}, "word_bits is 16"),
        ({"metrics": "loss"}, "give a list of names"),
        ({"metrics": ["loss", "loss"]}, "share one name"),
        ({"metrics": ["loss"], "metric_bound": 0.0}, "bound"),
        ({"silos": {**lines(3), "x": object()}}, "x: object has no train"),
    ],
    # Not str: a trainer's has its address in it, and every worker must name a test alike.
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_unsafe_parameters_are_refused_before_anything_runs(named: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text) as refused:
        Federation(**({"silos": lines(4)} | named))
    assert refused.value.__notes__[0].startswith("x SA-20")


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"rounds": 2, "dropouts": {4: {}}}, "rounds 1 to 3"),
        ({"rounds": 1, "dropouts": {1: {"nobody": "Training"}}}, "'nobody'"),
        ({"rounds": 1, "dropouts": {1: {"west": "Lunch"}}}, "'Lunch'"),
    ],
    ids=str,
)
def test_a_run_that_cannot_be_is_refused(named: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        quick().run(**named, progress=False)


def test_repr_names_the_silos_and_no_weights() -> None:
    federation = quick(initial=np.full(WEIGHTS, 0.123))
    assert repr(federation).startswith("Federation(north, south, west, east; Masking(")
    assert "0.123" not in repr(federation)


# --- what is shown --------------------------------------------------------------------------------------


def test_without_progress_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(action="error"):
        quick().run(1, progress=False)
    assert capfd.readouterr() == ("", "")


def drawn(federation: Federation, rounds: int = 2, **named: Any) -> tuple[str, BaseException | None]:
    """Return all that a terminal is sent, and the error that ended the run."""
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, highlight=False, _environ={"TERM": "xterm"})
    try:
        federation.run(rounds, progress=Progress(console), **named)
    except BaseException as error:  # noqa: BLE001 - the test looks at what it leaves behind
        return out.getvalue(), error
    return out.getvalue(), None


def test_a_terminal_shows_silos_phases_and_the_lost() -> None:
    text, error = drawn(quick(), dropouts={2: {"west": "MaskedInput"}})
    assert error is None
    assert all(name in text for name in NAMES[:4])
    assert all(word in text for word in ("Training", "Advertise", "Masked", "Consistency", "Unmasking"))
    assert "✓" in text
    assert "round 2/2  3 of 4 silos" in text
    assert "lost west" in text
    assert "round 1/2  4 of 4 silos" in text
    assert "Plain" not in text


@pytest.mark.usefixtures("test_keys")
@pytest.mark.parametrize("scheme", TAGS, ids=lambda scheme: type(scheme).__name__)
def test_nobody_is_shown_as_lost_who_was_not(scheme: Scheme) -> None:
    """The round ends with t answers: those that come after them are late, and late is not lost."""
    told: list[tuple[SiloId, str, str]] = []

    class Listens(Progress):
        def silo_phase(self, silo: SiloId, phase: str, state: Any) -> None:
            told.append((silo, phase, state))

    run(quick(6, scheme=scheme, metrics=()), 1, progress=Listens(Console(file=io.StringIO())))
    done = {(silo, phase) for silo, phase, state in told if state == "done"}
    assert done == {(silo, phase) for silo in NAMES[:6] for phase in phases_of(TAGS[scheme])}
    assert not [silo for silo, _, state in told if state == "lost"]


def test_under_plain_no_phase_is_called_masked() -> None:
    text, _ = drawn(quick(scheme=Plain()), dropouts={1: {"west": "MaskedInput"}})
    assert "Plain" in text
    assert "Masked" not in text
    history = run(quick(scheme=Plain()), 1, dropouts={1: {"west": "MaskedInput"}})
    assert "Masked" not in history.records[0].report.text() + history.report()
    assert history.records[0].report.dropouts == {"west": "PlainInput"}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError])
def test_ctrl_c_leaves_the_terminal_as_it_was(stop: type[BaseException]) -> None:
    silos = lines(4)

    def spoil(weights: Any) -> Any:
        raise stop

    silos["west"].spoil = spoil
    with warnings.catch_warnings(action="ignore"):
        text, error = drawn(quick(silos), 1)
    assert isinstance(error, stop) == (stop is not MemoryError)  # MemoryError is the trainer's own failure.
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_an_observer_is_told_every_sum() -> None:
    told: list[tuple[int, str, dict[str, float]]] = []

    class Listens(Progress):
        def round_finished(self, report: Any, metrics: Any) -> None:
            told.append((report.round, report.kind, dict(metrics)))

    history = run(quick(), 2, progress=Listens(Console(file=io.StringIO())))
    assert told == [(r.report.round, r.report.kind, dict(r.metrics)) for r in history.records]


def test_updates_beyond_the_clip_are_clipped_and_reported() -> None:
    silos = lines(4)
    silos["west"].spoil = lambda weights: weights + np.array([100.0, 0, 0, 0, 0])
    history = run(quick(silos, clip=4.0), 1)
    assert history.records[0].report.clipped_share == pytest.approx(1 / WEIGHTS / 4, abs=1e-6)
    assert "clipped 5 % of the update entries" in " ".join(history.report().split())
    assert np.abs(history.model).max() < 10


def test_integer_weights_are_taken_and_other_results_refused() -> None:
    whole = lines(4)
    whole["west"].spoil = lambda weights: np.ones(WEIGHTS, np.int32)
    assert len(run(quick(whole), 1).records[0].report.survivors) == 4

    class Wrong(Line):
        def train(self, weights: Any, settings: Any) -> Any:
            return super().train(weights, settings).weights

    with pytest.warns(SiloLeftOut, match=r"train\(\) returned ndarray, not Update"):
        run(quick({**lines(4), "west": Wrong(2)}), 1)
    text = lines(4, {"west": lambda weights: weights.astype(str)})
    with pytest.warns(SiloLeftOut, match=r"train\(\) returned weights of <U"):
        run(quick(text), 1)
    assert isinstance(Line().train(np.zeros(WEIGHTS), whole["west"].trained[0]), Update)
