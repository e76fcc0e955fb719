"""Attack ``kat_masks``: weaken the mask streams in a way that every round still survives.

Silos that share a mistake still cancel each other's masks, so sums stay right while masks repeat, or start
from a block that is used elsewhere. Only answers from outside the product notice: published ones for the
primitives, those of a second implementation for a whole round, and frozen ones, so that both cannot drift.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray

from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.prg import SPAN, add_streams
from secagg.masking import transcript
from secagg.names import WordBits
from tests.adversary import reference

KEY = bytes(range(32))

FROZEN_STREAM = {
    32: "fae486335a8e285ddbae704c6456e375a23fefcf885c33c7c4f3b4f23ffbedad",
    64: "ca801602b58d75217abfceb4bc38aee0fb6c24981bf6641cefdd8a9b2b42be49",
}
"""SHA-256 of the first ``SPAN + 5`` words of the stream of ``KEY``."""

FROZEN_INPUTS = {
    32: "d36079688f04b69e9becc41d35446dc566bf5893dea55c5b5b002e10bf747917",
    64: "129aa11d13ce08ec2b4fbf6f7abcb0fef635946f3c45b0aebce9457c26904c8b",
}
"""SHA-256 of the four masked vectors of the fixed round, one after the other."""


def digest(*vectors: NDArray[Any]) -> str:
    return reference.sha256(b"".join(v.astype(v.dtype.newbyteorder("<")).tobytes() for v in vectors)).hex()


def overlap(key: bytes, word_bits: WordBits) -> int:
    """Attack: look for two entries of one upload under the same mask; their difference would be open."""
    mask = np.zeros(2 * SPAN, f"u{word_bits // 8}")
    add_streams(mask, plus=[key], threads=1)
    return int(np.count_nonzero(mask[:SPAN] == mask[SPAN:]))


def test_kat_masks() -> None:
    reference.published()
    assert overlap(KEY, 32) < 20, "an entry is masked like the one a span before it"  # By chance: 2^-10.
    words: tuple[WordBits, ...] = (32, 64)
    for word_bits in words:
        mask = np.zeros(SPAN + 5, f"u{word_bits // 8}")
        add_streams(mask, plus=[KEY])
        assert np.array_equal(mask, reference.stream(KEY, SPAN + 5, word_bits)), "the stream is another one"
        assert digest(mask) == FROZEN_STREAM[word_bits]

        sent = reference.fixed_round(word_bits)
        round_id = reference.round_id(reference.session(word_bits), sent.shares)
        inputs = {silo: message.vector.array() for silo, message in sent.inputs.items()}
        for silo in reference.SILOS:
            expected = reference.masked(round_id, silo, word_bits)
            assert np.array_equal(inputs[silo], expected), f"the masks of {silo} are others"
        assert digest(*inputs.values()) == FROZEN_INPUTS[word_bits]

        # What the masks are for: of the survivors' sum nothing but the sum remains.
        assert sent.opened.survivors == tuple(silo for silo in reference.SILOS if silo != reference.LOST)
        assert sent.opened.total.array()[-1] == len(sent.opened.survivors)
        total = reference.total(sent.opened.survivors, word_bits)
        assert np.array_equal(sent.opened.total.array()[:-1], total)


def encryptor(key: bytes, info: bytes, mode: CTR | GCM) -> CipherContext:
    span_key = HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(key)
    return Cipher(AES(span_key), mode).encryptor()


def from_block(first: int) -> Any:
    return lambda key, span: encryptor(key, b"span" + span.to_bytes(4, "big"), CTR(first.to_bytes(16, "big")))


def alphabetical(own: AgreementKey, peer: bytes, round_id: bytes, *, lower: str, higher: str) -> bytes:
    return own.derive(peer, "pairwise mask", round_id, *sorted((lower, higher)))


@pytest.mark.parametrize(
    ("defence", "mutant"),
    [
        # One key for all spans; the span in the other byte order; block 0 or 1 first; another nonce.
        ("secagg.hazmat.prg._encryptor", lambda key, _: encryptor(key, b"span" + bytes(4), GCM(bytes(12)))),
        (
            "secagg.hazmat.prg._encryptor",
            lambda key, span: encryptor(key, b"span" + span.to_bytes(4, "little"), GCM(bytes(12))),
        ),
        ("secagg.hazmat.prg._encryptor", from_block(0)),
        ("secagg.hazmat.prg._encryptor", from_block(1)),
        (
            "secagg.hazmat.prg._encryptor",
            lambda key, span: encryptor(
                key, b"span" + span.to_bytes(4, "big"), GCM(span.to_bytes(12, "little"))
            ),
        ),
        ("secagg.masking.transcript.pair_stream", alphabetical),
        ("secagg.masking.transcript.self_stream", lambda seed, _round, _silo: seed),
        ("secagg.masking.transcript.self_stream", lambda *_: bytes(32)),
    ],
)
def test_kat_masks_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError):
        test_kat_masks()


def test_the_mutants_are_subtle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with keys that everybody knows the round still opens the right sum, as plain tests see it."""
    monkeypatch.setattr(transcript, "self_stream", lambda *_: bytes(32))
    sent = reference.fixed_round(32)
    total = reference.total(sent.opened.survivors, 32)
    assert np.array_equal(sent.opened.total.array()[:-1], total)
