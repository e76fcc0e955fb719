"""What is asked of a coordinator: it survives the wire, and becomes the run that ``Federation`` would do."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from secagg.ckks.params import CKKS
from secagg.errors import ParameterError
from secagg.hazmat.identity import IdentityKey
from secagg.keys.coordinator import EstablishedKey
from secagg.keys.document import KeyDocument, encode_document
from secagg.learning.history import Record
from secagg.learning.model import Blocks, GlobalModel
from secagg.learning.request import (
    CKKSAsked,
    MaskingAsked,
    PaillierAsked,
    PlainAsked,
    RunRequest,
    ThresholdPaillierAsked,
    asked_of,
    protection_of,
    strategy_pairs,
    tag_of,
)
from secagg.learning.settings import TrainingPlan
from secagg.learning.strategies import FedAdam, FedAvg, FedProx, FedYogi, Strategy
from secagg.masking.params import Masking
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.plain import Plain
from secagg.roster import Roster
from secagg.scheme import EncryptedScheme
from secagg.terms import KeyScheme, scheme_tag
from tests.paillier_keys import secret_key, threshold_key

ROSTER = Roster.of({name: IdentityKey.generate().public for name in ("a", "b", "c", "d")})
MODEL = GlobalModel(1, np.linspace(-1, 1, 7))


def keep(_base: Blocks, _record: Record) -> GlobalModel:
    raise AssertionError("no round is run here")


def request(**changes: Any) -> RunRequest:
    values: dict[str, Any] = {
        "name": "job",
        "rounds": 2,
        "app": "hospital.training:trainer",
        "scheme": asked_of(Masking()),
        "strategy": strategy_pairs(FedAvg()),
        "clip": 8.0,
        "weight_cap": 100.0,
        "least_total_weight": 10.0,
        "precision": 1e-4,
        "metric_bound": 100.0,
        "metrics": ("loss",),
        "epochs": 1,
        "learning_rate": None,
        "seed": 3,
        "word_bits": None,
    }
    return RunRequest(**values | changes)


@pytest.mark.parametrize("strategy", [FedAvg(0.5), FedProx(0.1), FedAdam(0.1), FedYogi(0.1)], ids=str)
@pytest.mark.parametrize("scheme", [Masking(), Masking(colluders=1, threshold=4), Plain()], ids=str)
def test_it_comes_back_as_it_went(strategy: Strategy, scheme: Masking | Plain) -> None:
    asked = request(scheme=asked_of(scheme), strategy=strategy_pairs(strategy))
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=RunRequest)
    assert back == asked
    terms = back.run(ROSTER, MODEL, federation="f", job="job-1", keep=keep).terms()
    plan = TrainingPlan.of(terms)
    assert (plan.strategy, plan.app, plan.length, plan.seed) == (strategy, asked.app, 7, 3)
    assert terms.scheme == scheme.parameters(4)
    assert (terms.federation, terms.job, terms.round, terms.kind) == ("f", "job-1", 1, "train")


ENCRYPTED: tuple[EncryptedScheme, ...] = (
    Paillier(),
    ThresholdPaillier(colluders=1, threshold=4),
    CKKS(min_honest=3),
)


def established(scheme: EncryptedScheme) -> EstablishedKey:
    """Return what a coordinator knows of a key for ``scheme``; nobody has signed it."""
    key, material, threshold = bytes(32), b"", None
    tag: KeyScheme = "ckks"
    match scheme:
        case Paillier():
            tag, key, material = "paillier", secret_key().public.id, secret_key().public.to_bytes()
        case ThresholdPaillier():
            shared, _ = threshold_key(4, 4)
            tag, key, material, threshold = "threshold-paillier", shared.id, shared.to_bytes(), 4
        case CKKS():
            pass
    document = KeyDocument(
        federation="f",
        scheme=tag,
        size=4096 if tag == "ckks" else 2048,
        threshold=threshold,
        roster=ROSTER.digest,
        maker=ROSTER.silos[0],
        made=0,
        lifetime=1,
        replaces=None,
        ceremony=bytes(32),
        key=key,
        material=material,
        signature=bytes(64),
    )
    return EstablishedKey(document, encode_document(document), ())


@pytest.mark.parametrize("scheme", ENCRYPTED, ids=lambda scheme: type(scheme).__name__)
def test_what_encrypts_comes_back_as_it_went_and_takes_the_key_that_silos_made(
    scheme: EncryptedScheme,
) -> None:
    asked = request(scheme=asked_of(scheme))
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=RunRequest)
    assert back == asked
    key = established(scheme)
    run = back.run(ROSTER, MODEL, federation="f", job="job-1", keep=keep, key=key)
    parameters = scheme.parameters(4, key=key.document.key)
    assert run.terms().scheme == protection_of(back.scheme, 4, key=key.document) == parameters
    assert tag_of(back.scheme) == scheme_tag(parameters)


@pytest.mark.parametrize("scheme", ENCRYPTED, ids=lambda scheme: type(scheme).__name__)
def test_nothing_is_encrypted_before_there_is_a_key(scheme: EncryptedScheme) -> None:
    asked = asked_of(scheme)
    with pytest.raises(ParameterError, match=f"coordinator key make --scheme {tag_of(asked)}"):
        request(scheme=asked).run(ROSTER, MODEL, federation="f", job="j", keep=keep)


@pytest.mark.parametrize(
    "changes",
    [
        {"app": ""},
        {"silos": 0},
        {"silos": 5},
        {"strategy": ()},
        {"strategy": (("strategy", "FedSomething"),)},
        {"strategy": (("server_learning_rate", "x"), ("strategy", "FedAvg"))},
        {"clip": -1.0},
        {"epochs": 0},
        {"seed": -1},
        {"scheme": MaskingAsked(None, 9, 2)},
        {"scheme": MaskingAsked(0, None, 2)},
        {"scheme": PaillierAsked(None, 9, 2)},
        {"scheme": ThresholdPaillierAsked(0, None, 2)},
        {"scheme": CKKSAsked(None, None, 1)},
    ],
    ids=str,
)
def test_what_no_run_can_have_is_refused(changes: dict[str, Any]) -> None:
    key = established(CKKS())
    with pytest.raises(ParameterError):
        request(**changes).run(ROSTER, MODEL, federation="f", job="j", keep=keep, key=key)


def test_plain_must_be_asked_for() -> None:
    assert isinstance(asked_of(Plain()), PlainAsked)
    assert not request(scheme=PlainAsked()).run(ROSTER, MODEL, federation="f", job="j", keep=keep).protected
    assert request().run(ROSTER, MODEL, federation="f", job="j", keep=keep).protected
