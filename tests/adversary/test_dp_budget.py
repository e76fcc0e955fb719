"""Attack ``dp_budget``: have a silo release more than it may: beyond its budget, longer, or bare.

The coordinator names what it likes: less noise beside a smaller delta, a run under another name, one release
of a base after another. What a vector costs is reckoned from the noise that the silo itself will draw, and
asked of its ledger before it trains; what is refused shows in nothing that it sends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from secagg.errors import PolicyRefused, PrivacyBudgetExhausted, RoundAborted
from secagg.fixedpoint import Encoding, Segment
from secagg.policy import Policy
from secagg.privacy.calibration import Privacy
from secagg.privacy.ledger import Ledger
from secagg.privacy.params import DistributedDP
from secagg.terms import SiloNoise, Terms
from secagg.weighting import plan_mean
from tests.privacy.noised import Noised

BUDGET = 3.0
POLICY = Policy(require_privacy=True, max_l2_clip_norm=1.0, min_weight_cap=None)
UPDATES = [np.full(5, 0.1)] * 4


def with_noise(terms: Terms, **changes: Any) -> dict[str, Any]:
    assert isinstance(terms.privacy, SiloNoise)
    return {"privacy": replace(terms.privacy, **changes)}


def roomier(encoding: Encoding) -> Encoding:
    (segment,) = encoding.segments
    bound = 2 * segment.bound
    return Encoding(
        64, encoding.cohort, (Segment(segment.name, segment.length, bound, segment.fraction_bits),)
    )


MEAN = plan_mean(5, cohort=4, clip=8.0, weight_cap=100.0, least_total_weight=10.0)
Lie = Callable[[Terms], dict[str, Any]]
LIES: dict[str, tuple[Lie, str]] = {
    "less noise": (lambda terms: with_noise(terms, share=terms.privacy.share / 4), "privacy budget"),  # type: ignore[union-attr]
    "less noise, and a delta that excuses it": (
        lambda terms: with_noise(terms, share=terms.privacy.share / 4, delta=0.99),  # type: ignore[union-attr]
        "privacy budget",
    ),
    "a longer update": (
        lambda terms: with_noise(terms, l2_clip_norm=1.001) | {"encoding": roomier(terms.encoding)},
        "max_l2_clip_norm",
    ),
    "no noise": (lambda _: {"privacy": None, "encoding": MEAN}, "privacy"),
}


def attack(name: str) -> Noised:
    federation = Noised(UPDATES, DistributedDP(Privacy(2.0, 1e-5, 1)), epsilon=BUDGET, policy=POLICY)
    lie, _ = LIES[name]
    changes = lie(federation.terms)
    with suppress(RoundAborted):
        federation.run(**changes)
    return federation


def check(federation: Noised, rule: str) -> None:
    sent = {message for _, message in federation.sent}
    assert "MaskedInput" not in sent, "a masked vector left a silo"
    assert sent <= {"BaseRequested", "Refused"}
    assert set(federation.coordinator.losses.values()) == {f"refused: {rule}"}
    for silo, host in federation.silos.items():
        [error] = host.errors
        assert isinstance(error, PrivacyBudgetExhausted if rule == "privacy budget" else PolicyRefused)
        assert not host.journal
        assert not federation.caches[silo]
        assert not federation.ledgers[silo].entries


@pytest.mark.parametrize("name", LIES)
def test_dp_budget(name: str) -> None:
    check(attack(name), LIES[name][1])


def test_what_is_within_it_is_done() -> None:
    """The control: the same terms without a lie."""
    federation = Noised(UPDATES, DistributedDP(Privacy(2.0, 1e-5, 1)), epsilon=BUDGET, policy=POLICY)
    assert federation.run().survivors == federation.roster.silos


@pytest.mark.parametrize(
    ("defence", "names"),
    [
        ("secagg.privacy.ledger.Ledger._check", ["less noise", "less noise, and a delta that excuses it"]),
        ("secagg.policy.Policy._check_privacy", ["a longer update", "no noise"]),
    ],
)
def test_dp_budget_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, names: list[str]) -> None:
    monkeypatch.setattr(defence, lambda *_: None)
    for name in names:
        with pytest.raises(AssertionError, match="a masked vector left a silo"):
            test_dp_budget(name)


# --- one release after another ------------------------------------------------------------------------------


def releases() -> Noised:
    """Ask for release after release of one base, under other names, each within the budget by itself."""
    federation = Noised(UPDATES, DistributedDP(Privacy(1.2, 1e-5, 1)), epsilon=BUDGET, policy=POLICY)
    for number in range(1, 12):
        try:
            federation.run(job=f"job-{number % 3}", release=number, round=1)
        except RoundAborted:
            break
    return federation


def check_releases(federation: Noised) -> None:
    for ledger in federation.ledgers.values():
        assert 2 <= len(ledger.entries) <= 10
        assert ledger.spent("silo") <= BUDGET, "more was spent than the budget"


def test_releases_of_one_base_end_with_the_budget() -> None:
    federation = releases()
    check_releases(federation)
    for host in federation.silos.values():
        assert isinstance(host.errors[-1], PrivacyBudgetExhausted)


@pytest.mark.parametrize("forgotten", ["_check", "_at"])
def test_releases_of_one_base_end_with_the_budget_mutant(
    monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    whole = Ledger._at
    monkeypatch.setattr(Ledger, forgotten, lambda *_: [] if forgotten == "_at" else None)
    federation = releases()
    if forgotten == "_at":
        monkeypatch.setattr(Ledger, "_at", whole)
        for ledger in federation.ledgers.values():
            ledger._known.clear()
    with pytest.raises(AssertionError):
        check_releases(federation)
