"""Attack ``model_split``: give the victim another model than everybody else.

The others get one from which nothing can be learned, so that their updates are zero and the sum is the
victim's. Two things stand in the way. The base is in the training digest, so signatures do not match; and
because the keys of masks are bound to it, even a coordinator that no silo checks, and that knows every silo's
own mask, is left with noise.

Source: model inconsistency as in Pasquini, Francati, Ateniese, "Eluding Secure Aggregation in Federated
    Learning via Model Inconsistency", CCS 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.errors import FaultyCoordinator, FaultySiloOrCoordinator
from secagg.hazmat.content import content_digest
from secagg.masking.dealing import OpeningPair
from secagg.messages import BaseRequested, BaseSent, Opening, Ready, Refused
from secagg.names import IntegerVector, SiloId
from secagg.payload import Payload
from secagg.terms import Terms, training_digest
from tests.adversary.harness import BASE, Attempt, Federation, Liar, refusals

VICTIM, COLLUDER = "b", "d"
LENGTH = 20_000
DEAD = np.zeros(LENGTH)
DEAD_BASE = content_digest(DEAD.tobytes())
REST: list[SiloId] = ["a", "c", "d", "e"]


def trained(federation: Federation, silo: SiloId) -> Callable[[Terms], IntegerVector]:
    """A silo whose update is zero when it starts from the dead model."""
    return lambda terms: federation.vector(silo) * np.uint32(terms.base != DEAD_BASE)


def attack(federation: Federation) -> None:
    """Run a round in which the victim holds the true model and the others were sent the dead one."""
    for silo, host in federation.silos.items():
        host.work.data = trained(federation, silo)
    for silo in REST:  # They are new here and hold no model yet.
        federation.silos[silo].work.bases[1] = None
    liar, true, dead = Liar(federation), federation.terms(), federation.terms(base=DEAD_BASE)
    assert isinstance(liar.train(true, [VICTIM])[VICTIM], Ready)
    assert liar.train(dead, REST) == dict.fromkeys(REST, BaseRequested(DEAD_BASE))
    assert liar.ask(REST, BaseSent(DEAD_BASE, Payload.of(DEAD)), Ready).keys() == set(REST)

    attempt = Attempt(liar, true)
    beside = attempt.beside(dead)
    attempt.advertise([VICTIM])
    beside.advertise(REST)
    attempt.announce_keys(to=[VICTIM])
    beside.announce_keys(to=REST)
    if len(attempt.dealt) < federation.roster.n:
        return
    seeds = {silo: (host.state.session, host.state.seed) for silo, host in federation.silos.items()}
    attempt.announce_shares(to=[VICTIM])
    beside.announce_shares(to=REST)
    for silo, (session, seed) in seeds.items():
        federation.knowledge.learn_seed(session, silo, seed)


def check(federation: Federation) -> None:
    opened = [exposure.total for exposure in federation.knowledge.exposures()]
    true = federation.vector(VICTIM)
    assert not any(np.array_equal(total, true) for total in opened), "the sum is the victim's update"
    assert not federation.knowledge.uploads
    for silo, host in federation.silos.items():
        [error] = host.errors
        assert isinstance(error, FaultySiloOrCoordinator)
        assert (error.silo == VICTIM) == (silo != VICTIM)


def test_model_split() -> None:
    federation = Federation(5, colluders=COLLUDER, length=LENGTH)
    attack(federation)
    check(federation)


def test_model_split_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(terms: Terms) -> bytes:
        return training_digest(msgspec.structs.replace(terms, base=bytes(32)))

    for module in ("secagg.rounds.silo", "secagg.masking.silo", "tests.adversary.harness"):
        monkeypatch.setattr(f"{module}.training_digest", blind)
    federation = Federation(5, colluders=COLLUDER, length=LENGTH)
    attack(federation)
    with pytest.raises(AssertionError, match="the sum is the victim's update"):
        check(federation)


# --- no check at all -------------------------------------------------------------------------------------


def unchecked(monkeypatch: pytest.MonkeyPatch) -> Federation:
    """Run the attack against silos that look at no signature and at no share."""
    nothing = Opening(bytes(33), bytes(32))
    monkeypatch.setattr("secagg.masking.silo.bundle_fault", lambda *_: None)
    monkeypatch.setattr("secagg.masking.silo.share_set_fault", lambda *_: None)
    monkeypatch.setattr("secagg.masking.silo.receive", lambda **_: OpeningPair(nothing, nothing))
    federation = Federation(5, colluders=COLLUDER, length=LENGTH)
    attack(federation)
    assert len(federation.knowledge.uploads) == federation.roster.n
    return federation


def cosine(left: NDArray[Any], right: NDArray[Any]) -> float:
    a, b = left.view(np.int32).astype(np.float64), right.view(np.int32).astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def recovered_parts(federation: Federation) -> dict[str, NDArray[Any]]:
    """What is left of the victim's upload, alone and in the sum over all, when every known stream is gone."""
    parts = {u.silo: federation.knowledge.stripped(u)[1] for u in federation.knowledge.uploads}
    total = np.zeros(LENGTH, np.uint32)
    for part in parts.values():
        total += part
    return {"alone": parts[VICTIM], "in the sum": total}


def check_noise(federation: Federation) -> None:
    true = federation.vector(VICTIM)
    assert not federation.knowledge.exposures()
    for where, part in recovered_parts(federation).items():
        assert abs(cosine(part, true)) < 0.05, f"the victim's update is {where}"


def test_what_is_left_without_any_check_is_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    check_noise(unchecked(monkeypatch))


def test_what_is_left_without_any_check_is_noise_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.masking.transcript.round_id", lambda *_: bytes(32))
    federation = unchecked(monkeypatch)
    assert np.array_equal(recovered_parts(federation)["in the sum"], federation.vector(VICTIM))
    with pytest.raises(AssertionError):
        check_noise(federation)


# --- the model that is held --------------------------------------------------------------------------------


def test_a_silo_that_holds_a_model_takes_no_other() -> None:
    federation = Federation(5)
    liar = Liar(federation)
    dead = federation.terms(base=DEAD_BASE)
    assert liar.train(dead, [VICTIM]) == {VICTIM: Refused("faulty coordinator")}
    assert refusals(federation.silos[VICTIM]) == [FaultyCoordinator]
    assert liar.tell(VICTIM, BaseSent(DEAD_BASE, Payload.of(DEAD))) is None
    assert federation.silos[VICTIM].work.bases.get(1, BASE) == BASE


def test_a_silo_that_holds_none_takes_only_the_one_that_is_named() -> None:
    federation = Federation(5)
    federation.silos[VICTIM].work.bases[1] = None
    liar = Liar(federation)
    assert liar.train(federation.terms(), [VICTIM]) == {VICTIM: BaseRequested(BASE)}
    assert liar.tell(VICTIM, BaseSent(BASE, Payload.of(DEAD))) == Refused("faulty coordinator")
    assert liar.tell(VICTIM, BaseSent(DEAD_BASE, Payload.of(DEAD))) is None
    assert not federation.silos[VICTIM].cache
