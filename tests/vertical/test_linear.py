"""Regressions of several parties: pooled coefficients, whatever happens on the way, and who saw what."""

from __future__ import annotations

import dataclasses
import os
import stat
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as PooledLogistic
from sklearn.linear_model import Ridge

from secagg.errors import EnvironmentFault, InputRefused, ParameterError, RoundAborted, UsageError
from secagg.vertical import LinearRegression, LogisticRegression, Party, align
from secagg.vertical.linear.links import least_squares, logistic
from secagg.vertical.linear.newton import minimise
from secagg.vertical.linear.parts import ModelPart
from secagg.vertical.linear.prediction import PredictionTerms, predict, prediction_side
from secagg.vertical.linear.regression import Regression
from secagg.vertical.linear.terms import Settings, Terms
from tests.vertical.regressions import NAMES, aligned, breast_cancer, coefficients, drawn, pooled

CLOSE = 1e-4
"""What issue and design ask for."""
full = pytest.mark.full


def exact(x: Any, y: Any, l2: float) -> np.ndarray[Any, Any]:
    """Return pooled coefficients and intercept by scikit-learn."""
    fitted = PooledLogistic(C=1 / l2, tol=1e-12, max_iter=10_000, solver="newton-cholesky").fit(x, y)
    return np.append(fitted.coef_[0], fitted.intercept_[0])


# --- pooled training is what comes out -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("parties", "l2"),
    [
        (2, 1.0),
        (3, 10.0),
        pytest.param(2, 0.01, marks=full),
        *(pytest.param(n, 1.0, marks=full) for n in (3, 4, 5)),
    ],
)
def test_an_open_link_gives_scikit_learns_coefficients(parties: int, l2: float) -> None:
    x, y = breast_cancer()
    model = LogisticRegression(l2=l2).fit(aligned(x, y, parties))
    assert model.converged
    np.testing.assert_allclose(coefficients(model), exact(x, y, l2), atol=CLOSE, rtol=0)


def test_two_parties_end_after_as_many_directions_as_the_other_has_columns() -> None:
    x, y = breast_cancer()
    model = LogisticRegression().fit(aligned(x, y, widths=[26, 4]))
    assert model.converged
    assert model.report().title.endswith("5 gradients")


def test_columns_of_any_size_train_alike() -> None:
    x, y = drawn(200, 4)
    sizes = np.array([1e6, 1.0, 1e-3, 50.0])
    plain = LogisticRegression(l2=1e-12).fit(aligned(x, y))
    wild = LogisticRegression(l2=1e-12).fit(aligned(x * sizes + [0, 3, 0, 0], y))
    np.testing.assert_allclose(coefficients(wild)[:4] * sizes, coefficients(plain)[:4], atol=CLOSE, rtol=0)


@pytest.mark.parametrize("parties", [2, 3, pytest.param(4, marks=full), pytest.param(5, marks=full)])
def test_a_hidden_link_gives_what_pooled_training_with_its_polynomial_gives(parties: int) -> None:
    x, y = drawn(300, 6)
    model = LogisticRegression(link="poly").fit(aligned(x, y, parties))
    assert model.converged
    expected = pooled(x, y, least_squares(1, 5.0), 1.0)
    np.testing.assert_allclose(coefficients(model), expected, atol=CLOSE, rtol=0)


@full
@pytest.mark.parametrize("parties", [2, 5])
def test_a_hidden_link_is_as_exact_on_breast_cancer(parties: int) -> None:
    x, y = breast_cancer()
    model = LogisticRegression(link="poly").fit(aligned(x, y, parties))
    expected = pooled(x, y, least_squares(1, 5.0), 1.0)
    np.testing.assert_allclose(coefficients(model), expected, atol=CLOSE, rtol=0)


def test_degree_three_gives_what_pooled_training_gives() -> None:
    x, y = drawn(600, 6)
    model = LogisticRegression(link="poly", degree=3, reach=8.0).fit(aligned(x, y))
    assert model.converged
    expected = pooled(x, y, least_squares(3, 8.0), 1.0)
    assert abs(expected - pooled(x, y, least_squares(1, 8.0), 1.0)).max() > 0.05, "degrees do not differ"
    np.testing.assert_allclose(coefficients(model), expected, atol=CLOSE, rtol=0)


def test_a_cubic_without_a_minimum_near_ends_with_an_error_that_says_what_to_do() -> None:
    x, y = breast_cancer()
    with pytest.raises(RoundAborted, match="raise l2"):
        LogisticRegression(link="poly", degree=3, reach=8.0).fit(aligned(x, y))


@pytest.mark.parametrize(
    ("parties", "scale", "columns"), [(3, 1e5, 6), *(pytest.param(n, 1e-4, 30, marks=full) for n in (2, 4))]
)
def test_linear_regression_gives_scikit_learns_ridge(parties: int, scale: float, columns: int) -> None:
    x = breast_cancer()[0][:, :columns]
    generator = np.random.default_rng(2)
    y = scale * (30 + x @ generator.normal(size=x.shape[1]) + generator.normal(size=len(x)))
    model = LinearRegression(l2=2.0).fit(aligned(x, y, parties))
    fitted = Ridge(alpha=2.0, solver="cholesky").fit(x, y)
    expected = np.append(fitted.coef_, fitted.intercept_)
    np.testing.assert_allclose(coefficients(model) / scale, expected / scale, atol=CLOSE, rtol=0)
    scores = model.predict(aligned(x, None, parties), to=NAMES[1])
    np.testing.assert_allclose(scores / scale, fitted.predict(x) / scale, atol=1e-3, rtol=0)


def test_labels_that_are_all_one_number_train_to_it() -> None:
    x, _ = drawn(100, 4)
    model = LinearRegression().fit(aligned(x, np.full(100, 7.5)))
    np.testing.assert_allclose(coefficients(model), [0, 0, 0, 0, 7.5], atol=1e-9)


def caravan() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return 5,822 x 85 standardised columns, the insurer's 42 first, and labels.

    The real ones if ISLP is there; else drawn, of the same shape.
    """
    spec = find_spec("ISLP")
    if spec is not None and spec.submodule_search_locations:
        path = Path(next(iter(spec.submodule_search_locations))) / "data" / "Caravan.csv"
        rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        x = np.array([row[43:85] + row[:43] for row in rows], np.float64)
        y = np.array([row[85].strip('"') == "Yes" for row in rows], np.float64)
    else:
        # As there: few positives, columns of few values, some rare, many of them shares of one whole.
        generator = np.random.default_rng(11)
        hidden = generator.normal(size=(5822, 6)) @ generator.normal(size=(6, 85))
        counts = generator.poisson(np.exp(hidden / 3 - np.linspace(0, 5, 85)))
        x = np.minimum(counts, 9).astype(np.float64)
        signal = (x - x.mean(axis=0)) @ generator.normal(size=85) / 8
        y = (signal + generator.logistic(size=5822) > np.quantile(signal, 0.97)).astype(np.float64)
    keep = x.std(axis=0) > 0
    return (x[:, keep] - x[:, keep].mean(axis=0)) / x[:, keep].std(axis=0), y


@full
def test_bank_and_insurer_train_on_caravan_as_if_pooled() -> None:
    x, y = caravan()
    open_link = LogisticRegression().fit(aligned(x, y, widths=[x.shape[1] - 43, 43]))
    np.testing.assert_allclose(coefficients(open_link), exact(x, y, 1.0), atol=CLOSE, rtol=0)
    for degree, reach in ((1, 5.0), (3, 8.0)):
        hidden = LogisticRegression(link="poly", degree=degree, reach=reach)
        hidden.fit(aligned(x, y, widths=[x.shape[1] - 43, 43]))
        expected = pooled(x, y, least_squares(degree, reach), 1.0)
        np.testing.assert_allclose(coefficients(hidden), expected, atol=CLOSE, rtol=0)


def test_training_that_is_cut_short_says_so() -> None:
    x, y = drawn(200, 12)
    for link in ("open", "poly"):
        model = LogisticRegression(link, steps=3).fit(aligned(x, y))
        assert not model.converged
        assert any("short of the tolerance" in note for note in model.report().notes)
        assert "3 gradients" in model.report().title


# --- scores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parties", [2, 3])
def test_scores_are_those_of_pooled_coefficients_for_whom_they_are_meant(parties: int) -> None:
    x, y = drawn(300, 6)
    model = LogisticRegression().fit(aligned(x[:200], y[:200], parties))
    expected = logistic(x[200:] @ coefficients(model)[:-1] + coefficients(model)[-1])
    for to in (None, NAMES[1]):
        scores = model.predict(aligned(x[200:], None, parties), to=to)
        np.testing.assert_allclose(scores, expected, atol=1e-8, rtol=0)
    rows = [seen for seen in model.report().of(NAMES[1]) if seen.what.startswith("predicting")]
    assert [seen.clear for seen in rows] == [0, 100]


def test_scores_of_a_polynomial_are_probabilities() -> None:
    x, y = drawn(300, 6)
    model = LogisticRegression("poly").fit(aligned(x, y))
    scores = model.predict(aligned(5 * x, None))
    sums = 5 * x @ coefficients(model)[:-1] + coefficients(model)[-1]
    np.testing.assert_allclose(scores, np.clip(least_squares(1, 5.0)(sums), 0, 1), atol=1e-8)
    assert scores.min() == 0
    assert scores.max() == 1


def test_identifiers_are_aligned_before() -> None:
    pytest.importorskip("rbcl")
    x, y = drawn(60, 4)
    bank = Party("bank", x[:50, :2], [f"n{i}" for i in range(50)], y=y[:50])
    insurer = Party("insurer", x[10:][::-1, 2:], [f"N{i} " for i in range(10, 60)][::-1])
    records = align([bank, insurer])
    model = LogisticRegression().fit(records)
    np.testing.assert_allclose(
        np.concatenate([model.parts["bank"].coefficients, model.parts["insurer"].coefficients]),
        exact(x[10:50], y[10:50], 1.0)[:-1],
        atol=CLOSE,
    )
    expected = logistic(x[10:50] @ coefficients(model)[:-1] + coefficients(model)[-1])
    np.testing.assert_allclose(model.predict(records), expected[records.rows["bank"] - 10], atol=1e-8)


# --- parts of a model --------------------------------------------------------------------------------------


def test_a_part_has_one_partys_coefficients_and_comes_back_from_its_file(tmp_path: Path) -> None:
    x, y = drawn(200, 5)
    records = aligned(x, y, widths=[3, 2])
    model = LogisticRegression().fit(records)
    loaded = {}
    for name, part in model.parts.items():
        part.save(tmp_path / f"{name}.npz")
        loaded[name] = ModelPart.load(tmp_path / f"{name}.npz")
        assert loaded[name].columns == part.columns
        np.testing.assert_array_equal(loaded[name].coefficients, part.coefficients)
        assert loaded[name].intercept == part.intercept
        assert loaded[name].settings == part.settings
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bank.npz", "insurer.npz"]
    np.testing.assert_array_equal(predict(loaded, records), model.predict(records))
    mine, theirs = (tmp_path / "bank.npz").read_bytes(), model.parts["insurer"].coefficients
    assert model.parts["bank"].coefficients.tobytes() in mine
    assert not any(value.tobytes() in mine for value in theirs)
    assert loaded["insurer"].intercept == 0.0


def test_a_file_that_save_did_not_write_is_refused(tmp_path: Path) -> None:
    x, y = drawn(100, 4)
    part = LogisticRegression(steps=1).fit(aligned(x, y)).parts["bank"]
    part.save(tmp_path / "part.npz")
    whole = (tmp_path / "part.npz").read_bytes()
    for broken in (b"", b"PK", whole[:200], whole[:-30]):
        (tmp_path / "broken.npz").write_bytes(broken)
        with pytest.raises(EnvironmentFault, match="is no part"):
            ModelPart.load(tmp_path / "broken.npz")
    np.savez(tmp_path / "other.npz", coefficients=np.zeros(2))
    np.savez(tmp_path / "pickle.npz", description=np.array([object()]))
    for other in ("other.npz", "pickle.npz"):
        with pytest.raises(EnvironmentFault, match="is no part"):
            ModelPart.load(tmp_path / other)
    with pytest.raises(EnvironmentFault, match="cannot read"):
        ModelPart.load(tmp_path / "none.npz")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = drawn(100, 4)
    part = LogisticRegression(steps=1).fit(aligned(x, y)).parts["bank"]
    part.save(tmp_path / "part.npz")
    before = (tmp_path / "part.npz").read_bytes()

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    assert stat.S_IMODE((tmp_path / "part.npz").stat().st_mode) == 0o600
    monkeypatch.setattr(os, "fsync", full_disk)  # Some disks say so no earlier.
    with pytest.raises(EnvironmentFault, match="No space left"):
        dataclasses.replace(part, intercept=1.0).save(tmp_path / "part.npz")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("part.npz", before)]


# --- who saw what ------------------------------------------------------------------------------------------


def test_a_report_counts_what_the_label_party_saw() -> None:
    x, y = breast_cancer()
    report = LogisticRegression(steps=4).fit(aligned(x, y)).report()
    sums, products, gradients = report.of("bank")
    assert (sums.clear, products.clear, gradients.protected) == (3 * 569, 4 * 5 // 2 + 4, 4 * 15)
    own, multiples, residuals = report.of("insurer")
    assert (own.clear, multiples.clear, residuals.protected) == (4 * 15, 4 * 3 // 2, 4 * 569)
    assert "bank knows 3 of 15 dimensions of the other parties' columns" in str(report)


def test_a_report_says_where_columns_are_known_up_to_a_map() -> None:
    x, y = drawn(100, 4)
    for parties, whose in ((2, "insurer"), (3, "all others together")):
        report = LogisticRegression(tolerance=1e-6).fit(aligned(x, y, parties)).report()
        assert "up to a linear map" in str(report)
        assert whose in report.of("bank")[0].what
    report = LogisticRegression("poly").fit(aligned(x, y, 3)).report()
    assert "Nobody saw a sum of columns" in str(report)
    assert not any("sum" in seen.what for seen in report.seen if seen.clear)


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"l2": 0.0},
        {"l2": -1.0},
        {"l2": float("nan")},
        {"l2": 1e-13},
        {"link": "closed"},
        {"degree": 2},
        {"steps": 0},
        {"steps": 1001},
        {"tolerance": 0.0},
        {"tolerance": 1e-10},
        {"reach": -1.0},
        {"model": "poisson"},
        {"model": "linear", "link": "open"},
        {"model": "linear", "link": "poly", "degree": 3},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        Settings(**wrong)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 1, 2], [-1, 1, 1], [0.5, 0, 1]])
def test_labels_of_a_logistic_model_are_zero_and_one(labels: list[float]) -> None:
    x, _ = drawn(90, 4)
    for link in ("open", "poly"):
        with pytest.raises(InputRefused, match="0 and 1"):
            LogisticRegression(link).fit(aligned(x, np.tile(labels, 30)))


def test_what_cannot_be_trained_on_is_refused() -> None:
    x, y = drawn(100, 12)
    with pytest.raises(ParameterError, match="insurer has 11 columns and 100 rows"):
        LogisticRegression().fit(aligned(x, y, widths=[1, 11]))
    with pytest.raises(ParameterError, match="bank has 11 columns"):  # Of them one is the intercept.
        LogisticRegression("poly").fit(aligned(x, y, widths=[10, 2]))
    with pytest.raises(ParameterError, match="no party has labels"):
        LogisticRegression().fit(aligned(x, None))
    with pytest.raises(ParameterError, match="2 to 5"):
        LogisticRegression().fit(aligned(x, y, 1))
    with pytest.raises(ParameterError, match="degree=1"):
        LogisticRegression("poly", degree=3).fit(aligned(x, y, 3))
    same = np.repeat(x[:, :1], 4, axis=1)
    with pytest.raises(InputRefused, match="multiples of each other"):
        LogisticRegression(l2=1e-12).fit(aligned(same * 1e6, y))
    huge = np.where(np.arange(100) < 50, 1e300, -1e300)
    with pytest.raises(InputRefused, match="units of"):
        LinearRegression().fit(aligned(x, huge, 3))


def test_what_was_not_trained_or_not_so_cannot_predict() -> None:
    x, y = drawn(100, 4)
    fresh: list[Regression] = [LogisticRegression(), LinearRegression()]
    for model in fresh:
        for use in (model.report, lambda model=model: model.predict(aligned(x, y))):
            with pytest.raises(UsageError, match="fit first"):
                use()
    model = LogisticRegression(steps=1).fit(aligned(x, y))
    with pytest.raises(ParameterError, match="align the same parties"):
        model.predict(aligned(x, None, 3))
    with pytest.raises(InputRefused, match="other columns"):
        model.predict(aligned(x, None, widths=[3, 1]))
    with pytest.raises(ParameterError, match="nobody has none"):
        model.predict(aligned(x, None), to="nobody")
    other = LogisticRegression(steps=2).fit(aligned(x, y))
    with pytest.raises(ParameterError, match="another model"):
        predict({"bank": model.parts["bank"], "insurer": other.parts["insurer"]}, aligned(x, None))
    terms = PredictionTerms(model=model.parts["bank"].model, records=bytes(32), rows=99, to="bank")
    with pytest.raises(InputRefused, match="99 rows of 2 columns"):
        prediction_side(model.parts["bank"], terms, x[:, :2])


def test_sums_too_large_for_their_words_are_refused() -> None:
    x, y = drawn(100, 4)
    model = LogisticRegression().fit(aligned(x, y))
    with pytest.raises(InputRefused, match="too large"):
        model.predict(aligned(x * 1e30, None))


def test_numbers_of_numpy_are_settings_like_any_other() -> None:
    same = Settings(l2=np.float64(2), steps=np.int64(7), degree=np.int32(1))  # type: ignore[arg-type] # as users have them
    assert same == Settings(l2=2, steps=7)
    assert type(same.steps) is int
    with pytest.raises(ParameterError):
        Settings(degree=True)


def test_terms_differ_where_anything_does() -> None:
    same: dict[str, Any] = {"records": bytes(32), "rows": 100, "parties": ("a", "b", "c"), "label_party": "a"}
    settings = Settings()
    variants = [
        Terms(settings=settings, **same),
        *(
            Terms(settings=dataclasses.replace(settings, **change), **same)
            for change in (
                {"link": "poly"},
                {"l2": 2.0},
                {"steps": 99},
                {"tolerance": 1e-5},
                {"reach": 6.0},
                {"model": "linear", "link": "poly"},
            )
        ),
        *(
            Terms(settings=settings, **{**same, **change})
            for change in (
                {"records": bytes(31) + b"\x01"},
                {"rows": 101},
                {"parties": ("b", "a", "c")},
                {"parties": ("a", "b")},
                {"label_party": "b"},
            )
        ),
    ]
    assert len({terms.digest for terms in variants}) == len(variants)
    for wrong in (
        {"parties": ("a",)},
        {"parties": ("a", "a")},
        {"label_party": "d"},
        {"records": b""},
        {"rows": 0},
    ):
        with pytest.raises(ParameterError):
            Terms(settings=settings, **{**same, **wrong})


# --- parts of the training ---------------------------------------------------------------------------------


def test_newton_finds_the_minimum_from_far_away_and_with_directions_of_any_length() -> None:
    x, y = breast_cancer()
    sizes = np.geomspace(1e-6, 1e6, 30)
    for start in (np.zeros(30), np.full(30, 5.0) / sizes):
        at = minimise((x * sizes).T, np.diag(sizes**2), y, start) * sizes
        gradient = x.T @ (logistic(x @ at) - y) + at
        assert abs(gradient).max() < 1e-8


def test_newton_says_where_there_is_no_minimum() -> None:
    x, y = drawn(50, 3)
    with pytest.raises(RoundAborted, match="no minimum"):
        minimise(x.T, -100 * np.eye(3), y, np.zeros(3))


def test_the_polynomial_is_the_known_one() -> None:
    link = least_squares(3, 8.0)
    assert (link.constant, round(link.first, 5), round(link.third, 6)) == (0.5, 0.15012, -0.001593)
