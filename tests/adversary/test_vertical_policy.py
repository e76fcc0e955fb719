"""Attack ``vertical_policy``: write a job file under which the protocol itself shows what it is to hide.

Everybody keeps to the protocol. A label party asks for an open link and for as many steps as there are, and
reckons a partner's columns from sums along all directions; a feature party asks that labels be turned
seldom, and gradients hardly noised, and reads labels from these. The operators type the job as it came, and
wrote nothing of it in their own files, or that an open link is allowed for a few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from secagg.errors import PolicyRefused
from secagg.payload import Frame
from secagg.vertical import LogisticRegression
from secagg.vertical.linear.messages import Sums
from secagg.vertical.linear.terms import MOST_STEPS
from secagg.vertical.linear.terms import Settings as RegressionSettings
from silo.vertical.job_file import VerticalJob
from silo.vertical.policy import VerticalPolicy
from tests.adversary.test_vertical_split_labels import LIMIT, by_direction, gradients
from tests.vertical import regressions

KNOWN = 30
"""Records whose columns the attacker knows."""
COLUMNS = 6
UNSAID = VerticalPolicy()
FEW = VerticalPolicy(links=frozenset({"open", "poly"}), max_steps=4)
SELDOM = {"label_flip": 0.001, "gradient_clip": 1.0, "gradient_noise": 0.001}


def taken(policy: VerticalPolicy, victim: str, method: Mapping[str, Any]) -> VerticalJob | None:
    """Return the job as the victim takes part in it, or None."""
    file = {"kind": "vertical", "name": "churn", "parties": ("bank", "insurer"), "label_party": "bank"}
    job = VerticalJob.model_validate({**file, **method})
    try:
        policy.check(job, victim)
    except PolicyRefused:
        return None
    return job


def columns_found(policy: VerticalPolicy, **logistic: Any) -> float:
    """Attack: return which share of the variance of a partner's columns the label party finds."""
    job = taken(policy, "insurer", {"logistic": {"tolerance": 1e-9, **logistic}})
    if job is None:
        return 0.0
    assert job.logistic is not None
    x, y = regressions.drawn(300, 1 + COLUMNS)
    sums: list[Any] = []

    def watch(_sender: str, receiver: str, frame: Frame) -> None:
        said = regressions.read(frame)
        if receiver == "bank" and isinstance(said, Sums):
            sums.append(said.sums.array().view(np.int64).astype(np.float64))

    model = LogisticRegression(**job.logistic.model_dump())
    model.fit(regressions.aligned(x, y, widths=[1, COLUMNS]), watch=watch)
    if not sums:
        return 0.0
    told, hers = np.column_stack([each / np.abs(each).max() for each in sums]), x[:, 1:]
    linear = np.linalg.lstsq(told[:KNOWN], hers[:KNOWN], rcond=None)[0]
    wrong = (told @ linear - hers)[KNOWN:]
    return float(1 - (wrong**2).sum() / (hers[KNOWN:] ** 2).sum())


def labels_found(policy: VerticalPolicy) -> float:
    """Attack: return the AUC with which a feature party reads labels from gradients."""
    job = taken(policy, "bank", {"split": SELDOM})
    if job is None:
        return 0.5
    assert job.split is not None
    rounds, truth = gradients(0, job.split.settings())
    return max(by_direction(rows, truth) for rows in rounds)


def many_steps() -> None:
    for steps in (MOST_STEPS, FEW.max_steps):
        found = columns_found(FEW, link="open", steps=steps)
        assert found < 0.5, "the label party finds a partner's columns by steps"


def open_link() -> None:
    for steps in (RegressionSettings.steps, COLUMNS + 1, 2):
        assert not columns_found(UNSAID, link="open", steps=steps), "an open link shows a partner's columns"


def link_unsaid() -> None:
    assert taken(UNSAID, "insurer", {"logistic": {}}) is not None, "a job of defaults is refused"
    assert not columns_found(UNSAID), "a link that nobody opened shows a partner's columns"


def few_turned() -> None:
    assert labels_found(UNSAID) <= LIMIT, "a feature party reads labels"


def test_vertical_policy() -> None:
    assert columns_found(FEW, link="open", steps=FEW.max_steps) > 0, "what just meets the cap is refused"
    for attack in (many_steps, open_link, link_unsaid, few_turned):
        attack()


def anything(*_: object) -> None:
    """Take part in whatever is asked for."""


@pytest.mark.parametrize(
    ("defence", "attack", "found"),
    [
        ("_at_most", many_steps, "columns by steps"),
        ("_at_least", few_turned, "reads labels"),
        ("check", open_link, "open link shows a partner's columns"),
    ],
)
def test_vertical_policy_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, attack: Callable[[], None], found: str
) -> None:
    monkeypatch.setattr(f"silo.vertical.policy.VerticalPolicy.{defence}", anything)
    with pytest.raises(AssertionError, match=found):
        attack()
