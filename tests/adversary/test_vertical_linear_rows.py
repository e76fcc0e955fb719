"""Attack ``vertical_linear_rows``: solve a party's own gradient for what is hidden in each row.

A gradient is a party's columns times residuals. With as many columns as rows it can be solved for them, and a
residual tells the label. Columns of noise do as well as any: a party adds them until it has enough."""

from __future__ import annotations

import numpy as np
import pytest

from secagg.errors import ParameterError
from secagg.names import SiloId
from secagg.vertical import LogisticRegression
from secagg.vertical.checkpoints import InMemory
from secagg.vertical.linear.coordinates import Coordinates
from secagg.vertical.linear.open_link import CURVATURE
from secagg.vertical.linear.state import unpack
from secagg.vertical.linear.terms import Terms
from tests.vertical.regressions import aligned, drawn

ROWS = 40


def labels_found() -> float:
    """Attack: train on as many columns as rows; return how many labels the first gradient tells."""
    x, y = drawn(ROWS, 1)
    noise = np.random.default_rng(8).normal(size=(ROWS, ROWS))
    kept = InMemory()
    try:
        LogisticRegression(steps=2).fit(
            aligned(np.hstack((x, noise)), y, widths=[1, ROWS]), checkpoints={"insurer": kept}
        )
    except ParameterError:
        return 0.0
    gradients, _ = unpack(kept.load()[1])
    mine = Coordinates("insurer", noise, intercept=False, l2=1.0, curvature=CURVATURE)
    residuals = np.linalg.solve(mine.design.T, gradients[0])
    return float(((residuals < 0) == (y == 1)).mean())


def test_vertical_linear_rows() -> None:
    assert labels_found() == 0, "a gradient tells the labels of all rows"


def any_columns(_self: Terms, _name: SiloId, _columns: int) -> None:
    """Let a party bring what it likes."""


def test_vertical_linear_rows_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.vertical.linear.terms.Terms.check_columns", any_columns)
    assert labels_found() == 1, "the attack does not work"
    with pytest.raises(AssertionError, match="tells the labels"):
        test_vertical_linear_rows()
