"""Attack ``he_no_secret_at_coordinator``: find in the coordinator's half what opens, after real rounds.

Everything that it holds is walked, object by object, and everything that it was sent, said and wrote down is
encoded: secret primes, shares, the words of a CKKS key, and the integers of every silo are looked for. Then
secrets are handed to its decoders, which must refuse them before a part is loaded. What no object of Python
shows, as what SEAL holds, ``canary_weights`` looks for in the memory of a coordinator's process.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

from secagg.ckks.parameters import SECRET_MAGIC as CKKS_MAGIC
from secagg.ckks.parameters import SEED_SIZE
from secagg.ckks.silo import CKKSCipher
from secagg.errors import MalformedMessage, RoundAborted
from secagg.keys.document import decode_document
from secagg.names import IntegerVector
from secagg.paillier.gmp import mpz
from secagg.paillier.params import SECRET_MAGIC as PAILLIER_MAGIC
from secagg.paillier.public import PublicKey
from secagg.paillier.threshold import ThresholdKey
from secagg.payload import Payload
from secagg.records import encode_record
from secagg.scheme import Scheme
from tests.federations import (
    CKKS_4096,
    PAILLIER,
    THRESHOLD_PAILLIER,
    Federation,
    Witness,
    ckks_key,
    dealt,
    keys_of,
)
from tests.paillier_keys import shared_key

N = 4
SCHEMES: dict[str, Scheme] = {
    "Paillier": PAILLIER,
    "ThresholdPaillier": THRESHOLD_PAILLIER,
    "CKKS": CKKS_4096,
}
ADDER = "secagg.rounds.coordinator.RoundCoordinator._needed_adder"
_SKIPPED = (type, ModuleType, FunctionType, BuiltinFunctionType)


def secrets() -> list[int | bytes]:
    """What opens, as numbers and as bytes."""
    p, q = shared_key().primes()
    shares = [int(share._share) for share in dealt(N, 3)[1]]
    words = ckks_key(4096).material().content
    found: list[int | bytes] = [p, q, *shares, words[64:128], words[-64:]]
    found += [number.to_bytes((number.bit_length() + 7) // 8, "big") for number in (p, q, *shares)]
    return found


def held(root: object) -> Iterator[object]:
    """Yield what is reachable from ``root``, but for code."""
    seen, queue = {id(root)}, [root]
    while queue:
        here = queue.pop()
        yield here
        for other in gc.get_referents(here):
            if id(other) not in seen and not isinstance(other, _SKIPPED):
                seen.add(id(other))
                queue.append(other)


def found_in(coordinator: Witness, wanted: list[int | bytes]) -> list[str]:
    """Attack: return where one of ``wanted`` lies."""
    numbers = {number for number in wanted if isinstance(number, int)}
    texts = [text for text in wanted if isinstance(text, bytes)]
    places = []
    for here in held(coordinator):
        match here:
            case bool():
                continue
            case int() | mpz() if int(here) in numbers:
                places.append("a number that it holds")
            case bytes() | bytearray() if any(text in here for text in texts):
                places.append("bytes that it holds")
            case np.ndarray() if any(text in here.tobytes() for text in texts):
                places.append("an array that it holds")
    written = b"".join(map(encode_record, coordinator.journal))
    for content in (written, *coordinator.traffic()):
        places += ["what it was sent, said or wrote" for text in texts if text in content]
    return places


def after_a_round(name: str) -> tuple[Federation, Witness]:
    federation = Federation(N, scheme=SCHEMES[name], seed=5)
    coordinator = federation.coordinator()
    with suppress(RoundAborted):  # What was sent in it was sent.
        federation.run(coordinator)
    return federation, coordinator


def plaintexts(federation: Federation) -> list[int | bytes]:
    return [vector.tobytes() for vector in federation.vectors.values()]


@pytest.mark.parametrize("name", SCHEMES)
def test_he_no_secret_at_coordinator(name: str) -> None:
    federation, coordinator = after_a_round(name)
    totals = [aggregate.total.tobytes() for work in federation.work.values() for aggregate in work.applied]
    wanted = [*secrets(), *plaintexts(federation), *totals]
    assert found_in(coordinator, wanted) == [], "the coordinator has what opens, or what was opened"
    assert len(totals) == N, "the sum was not opened"
    assert taken() == [], "a decoder of the coordinator took a secret"


def taken() -> list[str]:
    """Attack: hand secrets to what the coordinator reads keys and ciphertexts with; return who took one."""
    blobs = [
        shared_key().to_bytes(),
        dealt(N, 3)[1][0].to_bytes(),
        ckks_key(4096).material().content,
        b"\x01" + shared_key().to_bytes(),
    ]
    decoders: dict[str, Callable[[bytes], Any]] = {
        "public key": PublicKey.from_bytes,
        "threshold key": ThresholdKey.from_bytes,
        "key document": decode_document,
    }
    found = []
    for blob in blobs:
        for name, decode in decoders.items():
            try:
                decode(blob)
            except MalformedMessage:
                continue
            found.append(name)
    for name, blob in zip(SCHEMES, blobs, strict=False):
        adder = Federation(N, scheme=SCHEMES[name]).adder
        size, width = adder.upload.size, int(adder.upload.dtype[1])
        for content in (blob + bytes(-len(blob) % width), blob[:size].ljust(size, b"\1")):
            payload = Payload.over(adder.upload.dtype, len(content) // width, memoryview(content))
            try:
                adder.check(payload, silo="north", round_id=bytes(32))
            except MalformedMessage:
                continue
            found.append(f"ciphertexts of {name}")
    return found


def test_what_is_looked_for_is_found() -> None:
    """The control: a silo has the secrets, and its memory is walked the same way."""
    federation, _ = after_a_round("Paillier")
    p, _ = shared_key().primes()
    assert any(isinstance(here, mpz) and int(here) == p for here in held(federation.silos["north"]))


def whole_cipher(scheme: Scheme) -> Callable[[Witness], Any]:
    """``RoundCoordinator._needed_adder`` that is a silo's cipher, which can do more."""

    def needed(self: Witness) -> Any:
        self._adder = keys_of(scheme, N).keys["north"].cipher(self.terms)
        return self._adder

    return needed


_encrypt = CKKSCipher.encrypt


def key_for_a_seed(self: CKKSCipher, vector: IntegerVector, **named: Any) -> Payload:
    """``CKKSCipher.encrypt`` with words of the key where the first chunk has its seed."""
    real = _encrypt(self, vector, **named)
    words = self._secret.material().content[SEED_SIZE : 2 * SEED_SIZE]
    return Payload.over(real.dtype, real.length, memoryview(words + bytes(real.buffer()[SEED_SIZE:])))


@pytest.mark.parametrize(
    ("name", "defence", "mutant"),
    [
        ("Paillier", ADDER, whole_cipher(PAILLIER)),
        ("ThresholdPaillier", ADDER, whole_cipher(THRESHOLD_PAILLIER)),
        ("CKKS", "secagg.ckks.silo.CKKSCipher.encrypt", key_for_a_seed),
    ],
)
def test_he_no_secret_at_coordinator_mutant(
    monkeypatch: pytest.MonkeyPatch, name: str, defence: str, mutant: Any
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match="what opens"):
        test_he_no_secret_at_coordinator(name)


@pytest.mark.parametrize("place", ["secagg.paillier.coordinator", "secagg.ckks.public"])
def test_he_no_secret_at_coordinator_in_an_upload_mutant(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """A coordinator that looks at the size of an upload alone: a key that was padded is ciphertexts to it."""
    monkeypatch.setattr(f"{place}.SECRET_MAGIC", b"never there")
    assert taken() != []


def test_payloads_of_ciphertexts_are_no_secret() -> None:
    for name in SCHEMES:
        _, coordinator = after_a_round(name)
        for _, message in coordinator.log:
            for field in getattr(message, "__struct_fields__", ()):
                value = getattr(message, field)
                if isinstance(value, Payload):
                    data = value.buffer()[:].tobytes()
                    # Three bytes that SEAL's objects begin with come up in ciphertexts now and then.
                    assert CKKS_MAGIC not in data
                    assert PAILLIER_MAGIC not in data
