"""Trees of several parties are those of pooled training, whatever the data, whatever interrupted them."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from secagg.conversation import Side, together
from secagg.errors import (
    EnvironmentFault,
    FaultySilo,
    InputRefused,
    MalformedMessage,
    ParameterError,
    UsageError,
)
from secagg.payload import Frame
from secagg.vertical import GradientBoosting, Party, align
from secagg.vertical.checkpoints import InMemory
from secagg.vertical.trees import messages
from secagg.vertical.trees.cells import Binned, cuts_of
from secagg.vertical.trees.feature import FeatureParty
from secagg.vertical.trees.files import load, save
from secagg.vertical.trees.gradients import Fixed, gradients, probabilities
from secagg.vertical.trees.label import LabelParty
from secagg.vertical.trees.lattice import MOST_SUM
from secagg.vertical.trees.model import Forest, Splits, Tree, from_json, to_json
from secagg.vertical.trees.pooled import train_pooled
from secagg.vertical.trees.scoring import ScoreTerms, ScoringParty
from secagg.vertical.trees.settings import Loss, Settings, TreeTerms
from secagg.vertical.trees.splitting import Histogram, best_split
from tests.counts import count
from tests.vertical.trees import Columns, aligned, decoded, joined, pooled_trees

NAMES = ("bank", "insurer", "shop", "clinic", "utility")


def drawn(seed: int, rows: int, widths: list[int], *, ties: bool) -> dict[str, Columns]:
    """Return columns of several parties: normal, or small integers with ties and constants."""
    random = np.random.default_rng(seed)
    found = {}
    for name, width in zip(NAMES, widths, strict=False):
        x = random.normal(size=(rows, width))
        if ties:
            x = np.stack([random.integers(0, random.integers(1, 6), rows) for _ in range(width)], 1).astype(
                float
            )
        found[name] = x
    if ties:  # One column twice, at two parties: the first must win.
        found[NAMES[1]][:, 0] = found[NAMES[0]][:, 0]
    return found


def labelled(columns: Mapping[str, Columns], loss: Loss, seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed + 1)
    score: NDArray[np.float64] = np.stack([x[:, 0] * (at + 1) for at, x in enumerate(columns.values())]).sum(
        axis=0
    )
    score += random.normal(size=len(score)) * 0.5
    if loss == "squared":
        return score * 100
    y = (score > np.median(score)).astype(float)
    y[:2] = 0, 1
    return y


@given(
    seed=st.integers(0, 1 << 30),
    rows=st.integers(20, 700),
    widths=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    label=st.integers(0, 3),
    ties=st.booleans(),
    loss=st.sampled_from(["logistic", "squared"]),
    depth=st.integers(1, 4),
    bins=st.sampled_from([2, 5, 32]),
    least=st.integers(1, 30),
)
@settings(max_examples=count(8, full=200))
def test_trees_are_those_of_pooled_training(
    seed: int,
    rows: int,
    widths: list[int],
    label: int,
    ties: bool,
    loss: Loss,
    depth: int,
    bins: int,
    least: int,
) -> None:
    columns = drawn(seed, rows, widths, ties=ties)
    y = labelled(columns, loss, seed)
    alignment = aligned(columns, y, label=NAMES[label % len(widths)])
    model = GradientBoosting(
        trees=2, depth=depth, bins=bins, min_child_rows=least, loss=loss, learning_rate=0.5, l2=0.7
    ).fit(alignment)
    pooled = train_pooled(list(columns.values()), y, model.settings)
    assert joined(model) == pooled_trees(pooled)
    wanted = probabilities(pooled.scores) if loss == "logistic" else pooled.scores
    for to in (None, NAMES[0], NAMES[1]):
        np.testing.assert_array_equal(model.predict(alignment, to=to), wanted)


def test_five_parties_after_an_intersection() -> None:
    random = np.random.default_rng(0)
    ids = [f"id-{at}" for at in range(120)]
    orders = [random.permutation(120)[: 100 + at] for at in range(5)]
    x = random.normal(size=(120, 5))
    y = (x.sum(axis=1) > 0).astype(float)
    alignment = align(
        [
            Party(name, x[order, at : at + 1], [ids[row] for row in order], y[order] if at == 2 else None)
            for at, (name, order) in enumerate(zip(NAMES, orders, strict=True))
        ]
    )
    model = GradientBoosting(trees=3, depth=3, bins=8, min_child_rows=3).fit(alignment)
    pooled = train_pooled([alignment.features(n) for n in NAMES], alignment.labels(), model.settings)
    assert joined(model) == pooled_trees(pooled)
    assert {party for splits, _ in joined(model) for party, _, _ in splits.values()} > {0, 1}


@given(seed=st.integers(0, 1 << 30), rows=st.integers(4, 60), ties=st.booleans(), least=st.integers(1, 8))
def test_the_best_split_is_the_best_of_all(seed: int, rows: int, ties: bool, least: int) -> None:
    """Against every split of every column, in fractions, from the rows themselves."""
    columns = list(drawn(seed, rows, [2, 3], ties=ties).values())
    random = np.random.default_rng(seed)
    fixed = Fixed.of(np.stack([random.normal(size=rows), random.random(rows)]))
    g = [Fraction(int(n)) / Fraction(2) ** fixed.fraction_bits[0] for n in fixed.integers[0]]
    h = [Fraction(int(n)) / Fraction(2) ** fixed.fraction_bits[1] for n in fixed.integers[1]]

    def score(some: NDArray[np.bool_]) -> Fraction:
        chosen = np.flatnonzero(some)
        return sum((g[at] for at in chosen), Fraction(0)) ** 2 / (
            sum((h[at] for at in chosen), Fraction(0)) + 1
        )

    every = {}
    for party, x in enumerate(columns):
        for column in range(x.shape[1]):
            for cut in np.unique(x[:, column])[:-1]:
                left = x[:, column] <= cut
                if min(left.sum(), (~left).sum()) >= least:
                    every[party, column, float(cut)] = (
                        score(left) + score(~left) - score(np.ones(rows, np.bool_))
                    )
    binned = [Binned.of(x, 256) for x in columns]
    whole = np.arange(rows)
    found = best_split(
        [
            Histogram(b.cells, b.sums(list(fixed.integers), whole), b.cells.allowed(b.counts(whole), least))
            for b in binned
        ],
        fixed.integers.sum(axis=1),
        fixed,
        l2=1.0,
    )
    best = max(every.values(), default=Fraction(0))
    if found is None:
        assert best <= Fraction(1, 10**9)
        return
    here = binned[found.party]
    threshold = float(here.cuts[found.column][found.bin])
    chosen = every[found.party, here.column[found.column], threshold]
    assert float(best - chosen) <= 1e-9 * max(1.0, float(best))
    left = columns[found.party][:, here.column[found.column]] <= threshold
    np.testing.assert_array_equal(found.left, fixed.integers[:, left].sum(axis=1))


def test_trees_are_as_good_as_those_of_scikit_learn() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    train, rest = order[:400], order[400:]
    x = x[:, [20, 21, 22, 23, 24, 27, 0, 1, 2, 7]]
    columns = {"bank": x[:, :5], "insurer": x[:, 5:]}
    model = GradientBoosting(trees=10, depth=3, learning_rate=0.3, bins=16)
    model.fit(aligned({n: part[train] for n, part in columns.items()}, y[train].astype(float), label="bank"))
    scores = model.predict(aligned({n: part[rest] for n, part in columns.items()}, None, label="bank"))
    theirs = HistGradientBoostingClassifier(
        max_iter=10, max_depth=3, learning_rate=0.3, max_bins=16, l2_regularization=1.0, early_stopping=False
    ).fit(x[train], y[train])
    wanted = roc_auc_score(y[rest], theirs.predict_proba(x[rest])[:, 1])
    assert wanted > 0.98
    assert roc_auc_score(y[rest], scores) > wanted - 0.01


class Kept(InMemory):
    """Checkpoints that remember every step, and come back with those up to one."""

    def __init__(self, steps: Mapping[int, bytes] | None = None) -> None:
        super().__init__()
        self.every: dict[int, bytes] = {}
        for step, state in sorted((steps or {}).items()):
            self.save(step, state)

    def save(self, step: int, state: bytes) -> None:
        super().save(step, state)
        self.every[step] = state

    def upto(self, step: int) -> Kept:
        return Kept({at: state for at, state in self.every.items() if at <= step})


COLUMNS = drawn(5, 200, [2, 3, 2], ties=False)
LABELS = labelled(COLUMNS, "logistic", 5)
ALIGNMENT = aligned(COLUMNS, LABELS, label="insurer")
TREES = 3


def trained(kept: Mapping[str, InMemory] | None = None, watch: Any = None) -> GradientBoosting:
    model = GradientBoosting(trees=TREES, depth=3, bins=6, min_child_rows=5)
    return model.fit(ALIGNMENT, checkpoints=None if kept is None else kept.__getitem__, watch=watch)


def parts(model: GradientBoosting) -> list[bytes]:
    return [to_json(model.forest), *(to_json(model.splits(name)) for name in COLUMNS)]


@cache
def whole() -> tuple[GradientBoosting, Mapping[str, Kept]]:
    """Return a training that nothing interrupted, and what its parties kept."""
    kept = {name: Kept() for name in COLUMNS}
    return trained(kept), kept


@pytest.mark.parametrize(
    "behind",
    [
        None,
        "insurer",
        pytest.param("bank", marks=pytest.mark.full),
        pytest.param("shop", marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize("step", range(TREES + 1))
def test_training_goes_on_from_every_checkpoint(step: int, behind: str | None) -> None:
    model, kept = whole()
    back = {name: kept[name].upto(step - (name == behind)) for name in COLUMNS}
    again = trained(back)
    assert parts(again) == parts(model)
    assert again.report() == model.report()
    assert {name: kept[name].every for name in COLUMNS} == {
        name: kept[name].every | back[name].every for name in COLUMNS
    }


class Lost(Exception):
    """A process that is gone."""


@given(st.data())
@settings(max_examples=count(4, full=60))
def test_training_goes_on_wherever_it_was_lost(data: st.DataObject) -> None:
    seen: list[str] = []
    kept = {name: Kept() for name in COLUMNS}
    stop = data.draw(st.integers(0, 80))

    def watch(sender: str, receiver: str, frame: Frame) -> None:
        if len(seen) == stop:
            raise Lost
        seen.append(sender)

    try:
        model = trained(kept, watch)
    except Lost:
        model = trained({name: kept[name].upto(TREES) for name in COLUMNS})
    assert parts(model) == parts(whole()[0])


def test_a_party_that_brings_other_settings_or_records_is_named() -> None:
    ours = TreeTerms(
        alignment=bytes(32), parties=("bank", "shop"), label_party="bank", settings=Settings(trees=1)
    )
    for other in (
        TreeTerms(alignment=b"\1" * 32, parties=("bank", "shop"), label_party="bank", settings=ours.settings),
        TreeTerms(
            alignment=bytes(32), parties=("bank", "shop"), label_party="bank", settings=Settings(trees=2)
        ),
    ):
        sides: dict[str, Side[Any]] = {
            "bank": LabelParty("bank", COLUMNS["bank"], LABELS, ours, InMemory()).side(),
            "shop": FeatureParty("shop", COLUMNS["shop"], other, InMemory()).side(),
        }
        with pytest.raises(FaultySilo, match=r"^(bank|shop): it agreed on other records"):
            together(sides)


@pytest.mark.parametrize("party", COLUMNS)
def test_checkpoints_of_another_training_are_refused(party: str) -> None:
    _, theirs = whole()
    mine = {name: Kept() for name in COLUMNS}
    model = GradientBoosting(trees=TREES, depth=2)
    model.fit(ALIGNMENT, checkpoints=mine.__getitem__)
    for wrong in (theirs[party].every[1], b"rubbish"):
        mixed = {name: mine[name].upto(1) for name in COLUMNS} | {party: Kept({1: wrong})}
        with pytest.raises(EnvironmentFault, match=r"a checkpoint .*(is of another training|cannot be read)"):
            model.fit(ALIGNMENT, checkpoints=mixed.__getitem__)


@pytest.mark.parametrize("party", ["bank", "insurer"])
def test_training_does_not_go_on_with_other_data(party: str) -> None:
    _, kept = whole()
    other = {name: x + (name == party) for name, x in COLUMNS.items()}
    changed = [aligned(other, LABELS, label="insurer")]
    if party == "insurer":
        changed.append(aligned(COLUMNS, 1 - LABELS, label="insurer"))
    for alignment in changed:
        back = {name: kept[name].upto(1) for name in COLUMNS}
        with pytest.raises(ParameterError, match="not those that this training was begun with"):
            GradientBoosting(trees=TREES, depth=3, bins=6, min_child_rows=5).fit(
                alignment, checkpoints=back.__getitem__
            )


def test_parts_of_a_training_on_other_data_do_not_go_together() -> None:
    """Of the same records under the same settings, as where data are brought up to date."""
    model, _ = whole()
    for columns, labels in (
        ({**COLUMNS, "shop": COLUMNS["shop"][::-1]}, LABELS),
        (COLUMNS, labelled(COLUMNS, "logistic", 6)),
    ):
        later = GradientBoosting(trees=TREES, depth=3, bins=6, min_child_rows=5)
        later.fit(aligned(columns, labels, label="insurer"))
        assert later.settings == model.settings
        for name in COLUMNS:
            mixed = [(later if other == name else model).splits(other) for other in COLUMNS]
            with pytest.raises(ParameterError, match="all of the model of the trees"):
                GradientBoosting.of(model.forest, mixed)


def test_splits_of_other_trees_are_refused_by_their_number() -> None:
    """Where rows were in the same nodes, as always at the root, names are the same."""
    model, _ = whole()
    splits = model.splits("insurer")
    fewer = msgspec.structs.replace(splits, columns=splits.columns[1:], thresholds=splits.thresholds[1:])
    with pytest.raises(ParameterError, match="all of the model of the trees"):
        GradientBoosting.of(model.forest, [fewer, model.splits("bank"), model.splits("shop")])
    terms = ScoreTerms(
        alignment=bytes(32),
        model=splits.model,
        parties=splits.parties,
        label_party="insurer",
        to="insurer",
    )
    with pytest.raises(ParameterError, match="take parts of one training"):
        ScoringParty("insurer", COLUMNS["insurer"], fewer, terms, forest=model.forest)


def test_parts_are_kept_as_they_are(tmp_path: Path) -> None:
    model, _ = whole()
    save(model.forest, tmp_path / "forest.json")
    for name in COLUMNS:
        save(model.splits(name), tmp_path / f"{name}.json")
    forest = load(tmp_path / "forest.json", Forest)
    again = GradientBoosting.of(forest, [load(tmp_path / f"{name}.json", Splits) for name in COLUMNS])
    assert parts(again) == parts(model)
    np.testing.assert_array_equal(again.predict(ALIGNMENT), model.predict(ALIGNMENT))
    assert stat.S_IMODE((tmp_path / "forest.json").stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="nothing was trained here"):
        again.report()
    save(model.splits("bank"), tmp_path / "forest.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["forest.json", *(f"{name}.json" for name in COLUMNS)]
    )
    with pytest.raises(MalformedMessage, match="no Forest"):
        load(tmp_path / "forest.json", Forest)
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        load(tmp_path / "nothing.json", Forest)
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        save(model.forest, tmp_path / "no folder" / "forest.json")


def test_what_is_written_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part.json"
    save(whole()[0].splits("bank"), path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="No space left"):
        save(whole()[0].splits("shop"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["part.json"]


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part["trees"][0]["splits"].append([99, 0, 0]),
        lambda part: part["trees"][0]["leaves"].pop(),
        lambda part: part["trees"][0]["splits"][0].__setitem__(1, 7),
        lambda part: part["trees"][0]["splits"][0].__setitem__(2, 50),
        lambda part: part.update(label_party="nobody"),
        lambda part: part.update(first="x"),
        lambda part: part.update(model="AAAA"),
    ],
)
def test_trees_that_are_none_are_refused(change: Any) -> None:
    part = json.loads(to_json(whole()[0].forest))
    change(part)
    with pytest.raises(MalformedMessage, match="no Forest"):
        from_json(json.dumps(part).encode(), Forest)


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part["columns"].append(0),
        lambda part: part["columns"].__setitem__(0, 99),
        lambda part: part["thresholds"].__setitem__(0, None),
        lambda part: part.update(party="nobody"),
    ],
)
def test_splits_that_are_none_are_refused(change: Any) -> None:
    part = json.loads(to_json(whole()[0].splits("bank")))
    change(part)
    with pytest.raises(MalformedMessage, match="no Splits"):
        from_json(json.dumps(part).encode(), Splits)


def test_a_tree_of_one_leaf_and_of_too_many_levels() -> None:
    assert Tree((), ((1, 0.5),)).leaves_of(3, lambda *_: np.ones(3, np.bool_)).tolist() == [1, 1, 1]
    with pytest.raises(ParameterError, match="no tree"):
        Tree((), ())
    chain = [1 << at for at in range(8)]
    leaves = sorted([*(2 * node + 1 for node in chain), 256])
    with pytest.raises(ParameterError, match="too deep"):
        Tree(tuple((n, 0, at) for at, n in enumerate(chain)), tuple((n, 0.0) for n in leaves))


def test_prediction_needs_the_parties_and_columns_of_the_training() -> None:
    model, _ = whole()
    with pytest.raises(ParameterError, match="the model is of bank, insurer, shop"):
        model.predict(aligned({n: COLUMNS[n] for n in ("bank", "insurer")}, None, label="bank"))
    wide = {**COLUMNS, "shop": np.ones((200, 5))}
    with pytest.raises(ParameterError, match="trained on 2 columns, not 5"):
        model.predict(aligned(wide, None, label="bank"))
    with pytest.raises(ParameterError, match="nobody is to get scores"):
        model.predict(ALIGNMENT, to="nobody")
    other = GradientBoosting(trees=1).fit(ALIGNMENT)
    with pytest.raises(ParameterError, match="all of the model of the trees"):
        GradientBoosting.of(model.forest, [other.splits(name) for name in COLUMNS])
    with pytest.raises(UsageError, match="call fit first"):
        GradientBoosting().predict(ALIGNMENT)
    with pytest.raises(ParameterError, match="none of the parties"):
        model.splits("nobody")


def test_many_rows_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = whole()
    wanted = model.predict(ALIGNMENT)
    monkeypatch.setattr("secagg.vertical.trees.scoring._ROWS", 61)
    for to in COLUMNS:
        np.testing.assert_array_equal(model.predict(ALIGNMENT, to=to), wanted)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"trees": 0}, "trees is 0"),
        ({"trees": 10_001}, "at most 10000"),
        ({"depth": 8}, "at most 7"),
        ({"bins": 1}, "bins is 1"),
        ({"bins": 257}, "at most 256"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": 1.5}, "at most 1"),
        ({"l2": 0}, "l2 is 0.0"),
        ({"min_child_rows": 0}, "min_child_rows is 0"),
        ({"loss": "hinge"}, "one of logistic, squared"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        GradientBoosting(**given)


def test_labels_that_a_loss_does_not_take_are_refused() -> None:
    columns = drawn(0, 30, [1, 1], ties=False)
    for y in (np.ones(30), np.arange(30.0)):
        with pytest.raises(InputRefused, match="labels 0 and 1, and both"):
            GradientBoosting().fit(aligned(columns, y, label="bank"))
    with pytest.raises(InputRefused, match="beyond 1e"):
        GradientBoosting(loss="squared").fit(aligned(columns, np.full(30, 1e101), label="bank"))
    with pytest.raises(ParameterError, match="no party has labels"):
        GradientBoosting().fit(aligned(columns, None, label="bank"))
    none = {name: np.arange(0) for name in columns}
    nobody = dataclasses.replace(aligned(columns, np.arange(30.0), label="bank"), rows=none)
    with pytest.raises(InputRefused, match="no record is shared"):
        GradientBoosting(loss="squared").fit(nobody)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.arange(1.0), np.ones(1)),
        (np.array([-4e307, 0.0, -0.0, 5e-324, 1e308] * 9), np.arange(45.0)),
        (np.ones(40), np.arange(40.0)),
        (np.arange(40.0), np.zeros(40)),
        (np.arange(40.0), np.full(40, 0.1)),
        (np.arange(40.0), np.r_[1e100, np.arange(39.0)]),
        (np.arange(40.0), np.arange(40.0) * 5e-324),
    ],
    ids=["one row", "any size", "constant", "nothing to learn", "one label", "an outlier", "denormal"],
)
def test_trees_of_extreme_data_are_those_of_pooled_training(x: Columns, y: Columns) -> None:
    columns = {"bank": x[:, None], "shop": x[::-1, None].copy()}
    alignment = aligned(columns, y, label="bank")
    model = GradientBoosting(trees=2, depth=2, loss="squared", min_child_rows=1).fit(alignment)
    pooled = train_pooled(list(columns.values()), y, model.settings)
    assert joined(model) == pooled_trees(pooled)
    np.testing.assert_array_equal(model.predict(alignment, to="shop"), pooled.scores)


def test_six_parties_are_too_many() -> None:
    columns = {f"p{at}": np.ones((10, 1)) for at in range(6)}
    with pytest.raises(ParameterError, match="6 parties; trees take 2 to 5"):
        GradientBoosting().fit(aligned(columns, np.arange(10.0) % 2, label="p0"))


@given(
    st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=50),
    st.lists(st.floats(0, 1e-300), min_size=1, max_size=50),
)
def test_fixed_point_sums_cannot_wrap_and_are_fine(gradient: list[float], hessian: list[float]) -> None:
    size = min(len(gradient), len(hessian))
    values = np.array([gradient[:size], hessian[:size]])
    fixed = Fixed.of(values)
    magnitudes = np.abs(fixed.integers).sum(axis=1)
    assert (magnitudes <= MOST_SUM).all()
    for real, exact in zip(fixed.reals(fixed.integers), values, strict=True):
        # Half a step, of which the sum of all magnitudes has 2^27 at the least.
        assert np.abs(real - exact).max() <= 2.0**-28 * np.abs(exact).sum() + 1e-320


def test_gradients_are_derivatives_of_the_loss() -> None:
    scores, labels = np.linspace(-3, 3, 7), np.array([0, 1, 0, 1, 1, 0, 1.0])
    losses: dict[Loss, Any] = {
        "logistic": lambda s: np.logaddexp(0, s) - labels * s,
        "squared": lambda s: (s - labels) ** 2 / 2,
    }
    for loss, value in losses.items():
        step = 1e-4
        first = (value(scores + step) - value(scores - step)) / (2 * step)
        second = (value(scores + step) - 2 * value(scores) + value(scores - step)) / step**2
        np.testing.assert_allclose(gradients(loss, scores, labels), [first, second], atol=1e-6)
    assert np.isfinite(probabilities(np.array([-1e4, 1e4]))).all()


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=80), st.integers(2, 20))
def test_cuts_are_values_that_part_the_rows(values: list[float], most: int) -> None:
    column = np.array(values)
    cuts = cuts_of(column, most)
    assert len(cuts) < most
    assert set(cuts) <= set(column)
    assert (np.diff(cuts) > 0).all()
    assert not len(cuts) or cuts[-1] < column.max()
    if len(np.unique(column)) <= most:
        np.testing.assert_array_equal(cuts, np.unique(column)[:-1])
    else:
        bins = np.bincount(np.searchsorted(cuts, column), minlength=len(cuts) + 1)
        # Rows of one value stay together; else bins are as even as rows allow.
        together_ = np.unique(column, return_counts=True)[1].max()
        assert bins.max() <= -(-len(column) // most) + 1 + 2 * together_


def test_the_report_counts_what_was_seen() -> None:
    sent: list[messages.Sums | messages.Level] = []

    def watch(sender: str, receiver: str, frame: Frame) -> None:
        if "shop" in {sender, receiver}:
            said = decoded(frame)
            if isinstance(said, messages.Sums | messages.Level):
                sent.append(said)

    report = trained(watch=watch).report()
    seen = {(row.party, row.what): row for row in report.seen}
    sums = sum(isinstance(said, messages.Sums) for said in sent)
    assert seen["insurer", "sums of gradients and Hessians in bins of shop's columns"].clear == sums * 12 * 2
    placed = sum(
        int((said.nodes.array() != 255).sum())
        for said in sent
        if isinstance(said, messages.Level) and said.nodes
    )
    assert seen["shop", "in which node of a tree a row is"].clear == placed > 0
    encrypted = seen["shop", "gradients and Hessians of rows"]
    assert encrypted.clear == 0
    # All rows at the root, and at each level below half of them at the most.
    assert 2 * 200 * TREES < encrypted.protected <= 2 * 200 * TREES * 2
    assert seen["insurer", "to which side a row goes where bank splits"].clear > 0
    assert "semi-honest" in str(report)
