"""The privacy examples: attacks that work where nothing protects, and what noise costs a model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from examples.aml.learners import Table
from examples.privacy import inversion, utility
from examples.privacy.attacks import PIXELS, Attacker, build_network, matched, similarity
from examples.privacy.banks import MODEL, RegressionTrainer, banks
from examples.privacy.heads import heads
from examples.privacy.inversion import EPSILONS, IN_CLEAR, MASKED, SUM, Findings, attack, noised
from examples.privacy.runs import run_all
from examples.privacy.task import Task
from examples.privacy.utility import CHECKED_EPSILON, CHECKED_SILOS, LEAST_GAIN, gain, points
from examples.privacy.ways import DELTA, STUDIES, Point, Recipe, Scored, Way, rounds_of, run
from secagg import TrainingSettings
from secagg.learning.trainer import Initialises, SumsGradients, Trainer, TrainsPrivately
from secagg.names import RealVector
from secagg.privacy.sampling import PoissonSampler
from secagg.terms import LocalNoise
from silo.manifest import Manifest
from tests.counts import count
from tests.federations import seeded

IMAGES = Path(__file__).parents[1] / "docs" / "images"

CHANCE = 0.6
"""Of a digit and one image of independent noise, |similarity| is above it with a probability below 2e-7."""


# --- inversion ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def findings() -> Findings:
    return attack(silos=4, seed=0, steps=count(150, full=400))


def test_an_upload_in_clear_is_the_image(findings: Findings) -> None:
    assert min(findings.similarities(IN_CLEAR)) >= 0.95


def test_a_masked_upload_says_nothing(findings: Findings) -> None:
    # Uniform integers: with d = 2,410 parameters the cosine has a standard deviation of d ** -0.5 = 0.0204,
    # and four are beyond 0.15, which is 7.3 of them, with a probability below 2e-12.
    assert len(findings.cosines) == 4
    assert max(abs(value) for value in findings.cosines.values()) < 0.15
    assert max(abs(value) for value in findings.similarities(MASKED)) < CHANCE


def test_the_opened_sum_of_few_silos_says_nearly_everything(findings: Findings) -> None:
    assert np.mean(findings.similarities(SUM)) >= 0.8
    assert max(findings.similarities(SUM)) >= 0.95


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_a_noised_sum_says_less_than_a_guess_without_it(findings: Findings, epsilon: float) -> None:
    values = findings.similarities(noised(epsilon))
    assert max(values) < CHANCE
    guesses = [similarity(image, findings.guess) for image in findings.images]
    assert np.mean(values) < np.mean(guesses)


@pytest.fixture(scope="module")
def attacker() -> Attacker:
    return Attacker(_first_weights())


def _first_weights() -> RealVector:
    torch.manual_seed(3)
    state = build_network().state_dict()
    return Manifest.of(state).pack(state).astype(np.float64)


def _gradient(attacker: Attacker, images: RealVector, labels: Sequence[int]) -> RealVector:
    return attacker.gradient_sum(torch.from_numpy(images), torch.tensor(labels), None).numpy()


def _some_images(number: int, seed: int) -> RealVector:
    return np.random.default_rng(seed).random((number, PIXELS))


@pytest.mark.parametrize("seed", range(count(3, full=30)))
def test_the_quotient_is_the_image_of_one_gradient_and_of_no_sum(attacker: Attacker, seed: int) -> None:
    images = _some_images(2, seed)
    one = attacker.from_linear_layer(_gradient(attacker, images[:1], [4]))
    assert np.allclose(one, images[0])
    scaled = attacker.from_linear_layer(-0.01 * _gradient(attacker, images[:1], [4]))
    assert np.allclose(scaled, images[0])
    both = attacker.from_linear_layer(_gradient(attacker, images, [4, 7]))
    assert not np.allclose(both, images[0])
    assert not np.allclose(both, images[1])


@pytest.mark.parametrize("labels", [[0], [3, 3], [1, 2, 3, 4], [0, 0, 5, 9]])
def test_labels_are_read_from_the_last_bias(attacker: Attacker, labels: list[int]) -> None:
    gradient = _gradient(attacker, _some_images(len(labels), 0), labels)
    assert attacker.labels(gradient, len(labels)) == labels


def test_matching_finds_clipped_images_and_nothing_in_noise(attacker: Attacker) -> None:
    images, labels = _some_images(2, 1), [2, 8]
    clipped = attacker.gradient_sum(torch.from_numpy(images), torch.tensor(labels), 0.5).numpy()
    found = matched(images, attacker.by_matching(clipped, labels, l2_clip_norm=0.5))
    assert min(map(similarity, images, found)) >= 0.95
    noise = np.random.default_rng(0).normal(size=clipped.size)
    found = matched(images, attacker.by_matching(noise, labels, starts=1, steps=50))
    assert max(map(similarity, images, found)) < CHANCE


def test_similarity_counts_neither_shade_nor_contrast() -> None:
    image, other = _some_images(2, 5)
    assert similarity(image, 3 * image + 1) == pytest.approx(1)
    assert similarity(image, -image) == pytest.approx(-1)
    assert abs(similarity(image, other)) < CHANCE
    assert similarity(image, np.full(PIXELS, 0.3)) == pytest.approx(0)


def test_matched_undoes_a_permutation() -> None:
    images = _some_images(5, 6)
    assert np.array_equal(matched(images, images[[3, 0, 4, 1, 2]]), images)


def test_inversion_prints_and_draws(
    tmp_path: Path, findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inversion, "attack", lambda **_: findings)
    done = CliRunner().invoke(_app(inversion.main), ["--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for words in ("upload in clear", "masked upload", "opened sum", "epsilon 8", "mean of other digits"):
        assert words in done.output
    assert (tmp_path / "recovered_images.png").stat().st_size > 10_000


def _app(command: Any) -> typer.Typer:
    app = typer.Typer()
    app.command()(command)
    return app


# --- the two tasks -----------------------------------------------------------------------------------------

SMALL: Mapping[str, Mapping[str, int]] = {"imaging": {"records": 40}, "banks": {"people": 2_000}}


def _start(task: Task) -> RealVector:
    trainer = next(iter(task.trainers(3).values()))
    assert isinstance(trainer, Initialises)
    return trainer.initial(0).astype(np.float64)


@pytest.mark.parametrize("study", STUDIES)
def test_all_numbers_of_silos_hold_the_same_records(study: str) -> None:
    task = STUDIES[study].load(0, **SMALL[study])
    for silos in (3, 5, 10):
        trainers = task.trainers(silos)
        assert len(trainers) == silos
        start = _start(task)
        held = []
        for trainer in trainers.values():
            assert isinstance(trainer, Trainer)
            assert isinstance(trainer, TrainsPrivately)
            assert isinstance(trainer, SumsGradients)
            held.append(trainer.train(start, TrainingSettings(round=1)).examples)
        assert sum(held) == task.records
        assert max(held) <= task.most
        assert 0 <= task.score(start) <= 1


@pytest.mark.parametrize("study", STUDIES)
def test_what_is_tuned_on_is_not_what_is_measured(study: str) -> None:
    figures, tuning = (STUDIES[study].load(0, tuning=tuning, **SMALL[study]) for tuning in (False, True))
    start = _start(figures)
    first, other = (
        next(iter(task.trainers(3).values())).train(start, TrainingSettings(round=1))
        for task in (figures, tuning)
    )
    assert not np.array_equal(first.weights, other.weights)


def test_a_load_is_repeatable() -> None:
    one, two = heads(3, records=30), heads.__wrapped__(3, records=30)
    assert one.score(_start(one)) == two.score(_start(two))
    assert banks(0, people=2_000) is banks(0, people=2_000)


# --- logistic regression with noise ------------------------------------------------------------------------


def _table(rows: int, seed: int) -> Table:
    random = np.random.default_rng(seed)
    return Table(np.arange(rows), random.normal(size=(rows, MODEL.columns)), random.random(rows) < 0.3)


def _weights(seed: int) -> RealVector:
    return np.random.default_rng(seed).normal(size=MODEL.initial(0).size)


@pytest.mark.parametrize("clip", [0.1, 2.0, 1e6])
def test_a_gradient_sum_is_that_of_records_clipped_one_by_one(clip: float) -> None:
    table, weights = _table(20, 0), _weights(1)
    rows = [
        MODEL.gradient(weights, MODEL.inputs(table.features[row : row + 1]), table.labels[row : row + 1])
        for row in range(20)
    ]
    clipped = [row * min(1.0, clip / float(np.linalg.norm(row))) for row in rows]
    found = _sum(table, weights, clip)
    assert np.allclose(found, np.sum(clipped, axis=0))
    assert np.linalg.norm(found) <= 20 * clip


def _sum(table: Table, weights: RealVector, clip: float, rate: float = 1.0) -> RealVector:
    sampler = PoissonSampler(rate, random=seeded(1))
    return RegressionTrainer(table).gradient_sum(
        weights, TrainingSettings(round=1), sampler=sampler, l2_clip_norm=clip
    )


@pytest.mark.parametrize("row", range(5))
def test_no_record_moves_a_gradient_sum_by_more_than_the_clip(row: int) -> None:
    table, weights = _table(5, 2), 50 * _weights(3)
    rest = np.delete(np.arange(5), row)
    without = Table(table.accounts[rest], table.features[rest], table.labels[rest])
    moved = np.linalg.norm(_sum(table, weights, 0.7) - _sum(without, weights, 0.7))
    assert moved <= 0.7 * (1 + 1e-12)


def test_rows_of_a_gradient_sum_are_the_samplers() -> None:
    table, weights = _table(400, 4), _weights(5)
    rows = PoissonSampler(0.25, random=seeded(1)).draw(400)
    drawn = Table(table.accounts[rows], table.features[rows], table.labels[rows])
    assert np.allclose(_sum(table, weights, 1.0, rate=0.25), _sum(drawn, weights, 1.0))
    assert not np.allclose(_sum(table, weights, 1.0, rate=0.25), _sum(table, weights, 1.0))


@pytest.mark.parametrize(("multiplier", "accepted"), [(1.0, True), (2 / 3, False), (3 / 2, False)])
def test_local_noise_has_the_scale_of_its_terms(multiplier: float, accepted: bool) -> None:
    table, weights, runs = _table(30, 6), _weights(7), count(20, full=200)
    noise = LocalNoise(0.5, multiplier, 1.0, 4, DELTA)
    trainer, random = RegressionTrainer(table), seeded(2)
    ends = [
        trainer.train_privately(
            weights,
            TrainingSettings(round=1, learning_rate=1e-3),
            noise=noise,
            sampler=PoissonSampler(1.0),
            random=random,
        ).weights
        for _ in range(runs)
    ]
    # Steps of 1e-3 leave the gradient as good as unchanged: what differs between runs is their noise.
    expected = 1e-3 / 30 * 0.5 * math.sqrt(4)
    freedom = (runs - 1) * weights.size
    ratio = float(np.var(ends, axis=0, ddof=1).mean()) / expected**2
    # 7 standard deviations of a chi-square variable over its freedom; the rejected scales are 4/9 and 9/4.
    assert (abs(ratio - 1) < 7 * math.sqrt(2 / freedom)) == accepted


# --- utility -----------------------------------------------------------------------------------------------


def test_quick_runs_everything_and_draws(tmp_path: Path) -> None:
    done = CliRunner().invoke(_app(utility.main), ["--quick", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for study in STUDIES:
        rows = json.loads((tmp_path / f"utility_{study}.json").read_text())
        assert {row["way"] for row in rows} == set(Way)
        for row in rows:
            spent = row["epsilon_of_the_silos_that_took_part"]
            assert (spent is None) == (row["way"] == Way.PLAIN)
            assert spent is None or 0 < spent <= row["epsilon"]
        assert (tmp_path / f"utility_{study}.png").stat().st_size > 10_000


def _canned(difference: float) -> list[Scored]:
    scores = {Way.PLAIN: 0.9, Way.LOCAL: 0.5, Way.DISTRIBUTED: 0.5 + difference, Way.SILO: 0.1}
    return [Scored(point, scores[point.way], None) for point in points("banks", seeds=2)]


@pytest.mark.parametrize(
    ("difference", "code"), [(LEAST_GAIN + 0.001, 0), (LEAST_GAIN - 0.001, 1), (-0.3, 1)]
)
def test_the_check_fails_if_distributed_noise_is_not_worth_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float, code: int
) -> None:
    def canned(_points: Sequence[Point], **_: object) -> Iterator[Scored]:
        return iter(_canned(difference))

    monkeypatch.setattr(utility, "run_all", canned)
    done = CliRunner().invoke(_app(utility.main), ["--study", "banks", "--out", str(tmp_path)])
    assert done.exit_code == code, done.output
    assert ("yes" if code == 0 else "no") in done.output.split()


def test_gain_is_of_the_checked_points_alone() -> None:
    assert gain(_canned(0.25)) == pytest.approx(0.25)
    assert gain([each for each in _canned(0.25) if each.point.silos != CHECKED_SILOS]) is None
    assert gain([each for each in _canned(0.25) if each.point.way is not Way.LOCAL]) is None


def test_an_unknown_study_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(_app(utility.main), ["--study", "weather", "--out", str(tmp_path)])
    assert done.exit_code == 2


@pytest.mark.parametrize(
    ("way", "rounds"), [(Way.PLAIN, 3), (Way.LOCAL, 3), (Way.SILO, 3), (Way.DISTRIBUTED, 12)]
)
def test_every_step_of_distributed_noise_is_a_sum(way: Way, rounds: int) -> None:
    scored = run(Point("banks", way, 3, 5.0, 0, recipe=Recipe(12, 0.5), sized=SMALL["banks"]))
    assert (scored.spent is None) == (way is Way.PLAIN)
    assert scored.spent is None or scored.spent <= 5.0
    assert rounds_of(way, Recipe(12, 0.5)) == rounds


@pytest.mark.full
@pytest.mark.parametrize("study", ["banks"])  # The script checks both; images take minutes.
def test_distributed_noise_is_five_points_above_local_noise_at_ten_silos(study: str) -> None:
    todo = [
        Point(study, way, CHECKED_SILOS, CHECKED_EPSILON, seed)
        for way in (Way.LOCAL, Way.DISTRIBUTED)
        for seed in range(3)
    ]
    reached = gain(list(run_all(todo)))
    assert reached is not None
    assert reached >= LEAST_GAIN


@pytest.mark.parametrize("name", ["utility_banks", "utility_imaging", "recovered_images"])
def test_the_pictures_of_the_page_are_there_and_small(name: str) -> None:
    assert 10_000 < (IMAGES / f"{name}.png").stat().st_size < 150_000
