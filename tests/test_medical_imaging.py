"""The medical imaging example: the data are what its README says, and the federation is worth it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from examples.medical_imaging.__main__ import KILLED, returned
from examples.medical_imaging.baseline import BrightnessRule, mean_dice, rule_matrix
from examples.medical_imaging.data import (
    AFTER,
    BEFORE,
    CLASSES,
    GAP,
    HEIGHT,
    HELD_OUT,
    SCANNERS,
    WIDTH,
    Hospital,
    load_hospitals,
)
from examples.medical_imaging.experiment import mean_score, train_alone, train_pooled
from examples.medical_imaging.network import build_network, dice, trainer_for
from secagg import FedAvg, Federation, Plain, TrainingSettings
from secagg.names import RealVector


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads of one small network wait for each other far longer than they work when cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def hospitals() -> dict[str, Hospital]:
    return load_hospitals(0)


def test_shapes_types_and_range(hospitals: dict[str, Hospital]) -> None:
    assert list(hospitals) == ["north", "south", "east", "west", "coast", "hill"]
    for name, hospital in hospitals.items():
        assert hospital.name == name
        assert hospital.scanner == SCANNERS[name]
        for images, labels, count in (
            (hospital.train_images, hospital.train_labels, BEFORE + AFTER),
            (hospital.held_out_images, hospital.held_out_labels, HELD_OUT),
        ):
            assert images.shape == (count, 1, HEIGHT, WIDTH)
            assert labels.shape == (count, HEIGHT, WIDTH)
            assert images.dtype == np.float32
            assert labels.dtype == np.int64
            assert np.isfinite(images).all()
            assert images.min() >= 0.0
            for block in labels:  # every slice shows every class, so no Dice is over nothing
                assert set(np.unique(block)) == set(range(len(CLASSES)))
        assert np.quantile(hospital.train_images, 0.99) == pytest.approx(1.0, abs=1e-3)


def test_same_seed_same_bytes_and_another_seed_another_scanner(hospitals: dict[str, Hospital]) -> None:
    again, other = load_hospitals(0), load_hospitals(1)
    for name, hospital in hospitals.items():
        for part in ("train_images", "train_labels", "held_out_images", "held_out_labels"):
            assert getattr(again[name], part).tobytes() == getattr(hospital, part).tobytes()
        assert not np.array_equal(other[name].train_images, hospital.train_images)
        assert np.array_equal(other[name].train_labels, hospital.train_labels)


def test_held_out_blocks_are_contiguous_and_away_from_every_training_slice(
    hospitals: dict[str, Hospital],
) -> None:
    trained = {number for hospital in hospitals.values() for number in hospital.train_slices}
    held_out = [number for hospital in hospitals.values() for number in hospital.held_out_slices]
    assert len(held_out) == len(set(held_out)) == 6 * HELD_OUT
    assert len(trained) == 6 * (BEFORE + AFTER)
    assert min(abs(a - b) for a in held_out for b in trained) == GAP + 1
    for hospital in hospitals.values():
        first = hospital.held_out_slices[0]
        assert hospital.held_out_slices == tuple(range(first, first + HELD_OUT))
    slabs = [range(min(h.train_slices), max(h.train_slices) + 1) for h in hospitals.values()]
    for one, other in itertools.combinations(slabs, 2):
        assert not set(one) & set(other)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_brightness_rule_of_one_hospital_serves_another(seed: int) -> None:
    scores = rule_matrix(load_hospitals(seed))
    elsewhere = scores[~np.eye(len(scores), dtype=bool)]
    assert scores.shape == (6, 6)
    assert elsewhere.max() <= 0.75
    # It is a rule worth the name: at home it beats what it scores elsewhere.
    assert (np.diag(scores) > scores.sum(axis=1, where=~np.eye(6, dtype=bool)) / 5).all()


def test_the_rule_is_the_best_on_its_own_training_pixels(hospitals: dict[str, Hospital]) -> None:
    hospital = hospitals["north"]
    rule = BrightnessRule.fit(hospital)
    bands = np.searchsorted(rule.edges, hospital.train_images[:, 0])
    right = (rule.labels[bands] == hospital.train_labels).mean()
    for band, label in itertools.product(range(0, len(rule.labels), 9), range(len(CLASSES))):
        changed = rule.labels.copy()
        changed[band] = label
        assert (changed[bands] == hospital.train_labels).mean() <= right


def test_both_dice_scores_are_the_textbook_one() -> None:
    labels = np.array([[[0, 1, 1, 2], [2, 2, 0, 0]]])
    predicted = np.array([[[0, 1, 2, 2], [2, 0, 0, 1]]])
    grey, white = 2 * 1 / (2 + 2), 2 * 2 / (3 + 3)
    scores = torch.nn.functional.one_hot(torch.from_numpy(predicted), 3).permute(0, 3, 1, 2).float()
    assert dice(scores, torch.from_numpy(labels)) == pytest.approx(
        {"dice_grey": grey, "dice_white": white, "dice": (grey + white) / 2}
    )
    assert mean_dice(predicted, labels) == pytest.approx((grey + white) / 2)
    assert mean_dice(labels, labels) == 1.0


def test_every_parameter_of_the_network_takes_part() -> None:
    model = build_network()
    images = torch.randn(2, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    scores = model(images)
    assert scores.shape == (2, len(CLASSES), HEIGHT, WIDTH)
    torch.autograd.backward(scores.square().mean())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert sum(parameter.numel() for parameter in model.parameters()) < 60_000
    assert not list(model.buffers())


def test_score_is_over_all_held_out_blocks_at_once(hospitals: dict[str, Hospital]) -> None:
    trainer = trainer_for(hospitals["north"], build_network())
    weights = trainer.initial(0).astype(np.float64)
    model = trainer.load(weights)
    with torch.inference_mode():
        predicted = [
            model(torch.from_numpy(hospital.held_out_images)).argmax(1).numpy()
            for hospital in hospitals.values()
        ]
    labels = [hospital.held_out_labels for hospital in hospitals.values()]
    assert mean_score(hospitals, weights) == pytest.approx(
        mean_dice(np.concatenate(predicted), np.concatenate(labels))
    )


def test_one_round_alone_teaches_and_repeats(hospitals: dict[str, Hospital]) -> None:
    trainer = trainer_for(hospitals["west"], build_network())
    start = trainer.initial(0).astype(np.float64)
    settings = TrainingSettings(round=1, epochs=3, seed=7)
    update = trainer.train(start, settings)
    assert np.array_equal(update.weights, trainer.train(start, settings).weights)
    before, after = trainer.evaluate(start), trainer.evaluate(update.weights.astype(np.float64))
    assert set(after.metrics) == {"loss", "dice", "dice_grey", "dice_white"}
    assert after.metrics["loss"] < before.metrics["loss"]
    assert after.metrics["dice"] > before.metrics["dice"] + 0.2
    assert (update.examples, after.examples) == (BEFORE + AFTER, HELD_OUT)


def _federated(
    hospitals: Mapping[str, Hospital], start: RealVector, *, rounds: int, epochs: int, seed: int
) -> float:
    history = Federation(
        silos={name: trainer_for(hospital, build_network()) for name, hospital in hospitals.items()},
        scheme=Plain(),  # masked runs open the same integers; tests/contract.py holds them to it
        strategy=FedAvg(),
        epochs=epochs,
        seed=seed,
        initial=start,
        weight_cap=64,
        least_total_weight=24,
        metric_bound=8,
    ).run(rounds, progress=False)
    return mean_score(hospitals, np.asarray(history.model))


def test_two_rounds_together_beat_the_start_and_a_hospital_alone(hospitals: dict[str, Hospital]) -> None:
    start = trainer_for(hospitals["north"], build_network()).initial(0).astype(np.float64)
    together = _federated(hospitals, start, rounds=2, epochs=3, seed=0)
    alone = train_alone(hospitals, "north", start, rounds=2, epochs=3, seed=0)
    assert len(alone.scores) == 3
    assert alone.scores[0] == mean_score(hospitals, start)
    assert together > alone.scores[-1] + 0.03
    assert together > alone.scores[0] + 0.2


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_together_beats_every_hospital_alone(seed: int) -> None:
    hospitals = load_hospitals(seed)
    start = trainer_for(hospitals["north"], build_network()).initial(seed).astype(np.float64)
    together = _federated(hospitals, start, rounds=10, epochs=3, seed=seed)
    alone = {
        name: train_alone(hospitals, name, start, rounds=10, epochs=3, seed=seed).scores[-1]
        for name in hospitals
    }
    pooled = train_pooled(hospitals, start, rounds=10, epochs=3, seed=seed).scores[-1]
    assert together >= max(alone.values()) + 0.03, alone
    assert pooled >= together - 0.02


@pytest.mark.parametrize(
    ("rounds_with_it", "told"),
    [({1, 2, 5}, "trained from round 5 on"), ({1, 2}, "was not back before the run ended")],
)
def test_the_demo_says_when_the_killed_hospital_was_back(rounds_with_it: set[int], told: str) -> None:
    def survivors(number: int) -> tuple[str, ...]:
        return ("north", KILLED) if number in rounds_with_it else ("north",)

    reports = [SimpleNamespace(round=number, survivors=survivors(number)) for number in range(1, 6)]
    history: Any = SimpleNamespace(records=[SimpleNamespace(report=report) for report in reports])
    assert told in returned(history, 4)
