"""Keys of silos in one process: made in a real ceremony, each silo's own, only where a scheme needs them."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from secagg import wire
from secagg.ckks.params import CKKS
from secagg.errors import ParameterError, PolicyRefused
from secagg.keys.holder import KeyHolder
from secagg.keys.keyring import HeldKey
from secagg.keys.secret import MadeKey
from secagg.local_keys import LocalKeys, make_keys, policy_of
from secagg.masking.params import Masking
from secagg.messages import KeyDealt
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.plain import Plain
from secagg.terms import Terms
from tests.ceremonies import maker
from tests.federations import MODEL, encoding_of, roster_of

N = 4
ROSTER, IDENTITIES = roster_of(N)
ENCODING = encoding_of(N)
PAILLIER, THRESHOLD, CKKS_4096 = Paillier(bits=2048), ThresholdPaillier(bits=2048), CKKS(degree=4096)


@pytest.fixture(autouse=True)
def known_primes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Primes of a threshold key take seconds to find; everything else is made as always."""
    monkeypatch.setitem(cast(Any, KeyHolder.__init__).__kwdefaults__, "make", maker())


def terms(local: LocalKeys) -> Terms:
    return Terms(
        federation="local",
        job="job",
        round=1,
        kind="sum",
        release=1,
        roster=ROSTER.digest,
        base=MODEL.digest,
        scheme=local.parameters,
        encoding=ENCODING,
    )


def holders(local: LocalKeys) -> dict[str, HeldKey]:
    found = {}
    for silo, keys in local.keys.items():
        [found[silo]] = cast(KeyHolder, keys).held
    return found


@pytest.mark.parametrize("scheme", [Plain(), Masking()])
def test_where_nothing_is_encrypted_there_is_no_key(scheme: Plain | Masking) -> None:
    local = make_keys(scheme, ROSTER, IDENTITIES)
    assert local.parameters == scheme.parameters(N)
    assert (dict(local.keys), local.key, local.adders, local.desk(ROSTER)) == ({}, None, None, None)


@pytest.mark.parametrize("scheme", [PAILLIER, THRESHOLD, CKKS_4096])
def test_every_silo_holds_the_key_that_the_terms_name(scheme: Any) -> None:
    local = make_keys(scheme, ROSTER, IDENTITIES)
    assert local.key is not None
    key = local.key.document.key
    assert local.parameters == scheme.parameters(N, key=key)
    held = holders(local)
    assert set(held) == set(ROSTER.silos)
    assert {one.document.key for one in held.values()} == {key}
    assert len({one.content for one in held.values()}) == (N if scheme is THRESHOLD else 1)
    assert local.key.document.threshold == (scheme.cohort(N).t if scheme is THRESHOLD else None)
    assert local.desk(ROSTER) is not None
    assert local.adders is not None
    assert local.adders(ENCODING).key == key


def test_what_silos_encrypt_the_coordinator_adds_and_each_silo_opens() -> None:
    local = make_keys(CKKS_4096, ROSTER, IDENTITIES)
    assert local.adders is not None
    adder = local.adders(ENCODING)
    ciphers: dict[str, Any] = {silo: keys.cipher(terms(local)) for silo, keys in local.keys.items()}
    vector = np.ones(ENCODING.length + 1, np.uint32)
    total = adder.begin()
    for silo, cipher in ciphers.items():
        ciphertexts = cipher.encrypt(vector, silo=silo, round_id=bytes(32))
        adder.check(ciphertexts, silo=silo, round_id=bytes(32))
        total.add(ciphertexts)
    for cipher in ciphers.values():
        assert cipher.open(total.total(), silos=N, round_id=bytes(32)).tolist() == [N] * vector.size


def test_two_calls_make_two_keys() -> None:
    one, other = (make_keys(CKKS_4096, ROSTER, IDENTITIES) for _ in range(2))
    assert one.key is not None
    assert other.key is not None
    assert one.key.document.key != other.key.document.key
    with pytest.raises(PolicyRefused) as refused:
        next(iter(other.keys.values())).cipher(terms(one))
    assert refused.value.rule == "key"


def test_what_goes_between_the_silos_of_a_process_is_sealed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ceremony is the real one: frames, in which no secret is."""
    frames: list[bytes] = []
    real = wire.encode

    def noted(message: Any) -> Any:
        frame = real(message)
        frames.append(frame[0])
        return frame

    monkeypatch.setattr(wire, "encode", noted)
    held = holders(make_keys(CKKS_4096, ROSTER, IDENTITIES))
    assert any(KeyDealt.__name__.encode() in frame for frame in frames)
    assert not any(one.content[-64:] in frame for one in held.values() for frame in frames)


@pytest.mark.parametrize("scheme", [PAILLIER, THRESHOLD, CKKS_4096])
def test_too_few_silos_are_refused_before_a_key_is_made(scheme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> MadeKey:
        raise AssertionError("a key was made")

    monkeypatch.setitem(cast(Any, KeyHolder.__init__).__kwdefaults__, "make", never)
    roster, identities = roster_of(2)
    with pytest.raises(ParameterError):
        make_keys(scheme, roster, identities)


def test_silos_of_a_process_agree_to_what_was_chosen_and_to_nothing_else() -> None:
    cohort = THRESHOLD.cohort(N)
    policy = policy_of("threshold-paillier", cohort)
    assert policy.schemes == {"threshold-paillier"}
    assert (policy.colluders, policy.min_honest) == (cohort.c, cohort.k_min)
    policy.check_key("threshold-paillier", roster=ROSTER, threshold=cohort.t)
    for scheme, threshold, rule in (("ckks", None, "scheme"), ("threshold-paillier", 2, "threshold")):
        with pytest.raises(PolicyRefused) as refused:
            policy.check_key(cast(Any, scheme), roster=ROSTER, threshold=threshold)
        assert refused.value.rule == rule
    assert policy_of("plain", None).schemes == {"plain"}
