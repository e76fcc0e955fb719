"""A product's command in a process of its own that writes down every secret it draws, derives or recovers.

``python -m tests.adversary.watched silo run ...``; what is asked of it stands in its environment:

- ``WATCHED_SECRETS``: the file for lines "kind hex";
- ``WATCHED_MUTANTS``: product symbols, each with the function that takes its place;
- ``WATCHED_GATES``: a folder with pipes ``STEP``: before a silo's session takes that step it waits there;
- ``WATCHED_DIES``: in which masked input the process ends, as by a power cut;
- ``WATCHED_EVENTS``: the file for what the control API answers.
"""

from __future__ import annotations

import importlib
import os
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW = 4
"""Entries of a vector that are looked for together."""


class Secrets:
    """Writes marks to a file at once, so that a killed process leaves them too."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, kind: str, value: bytes) -> None:
        os.write(self._file, f"{kind} {value.hex()}\n".encode())

    def add_number(self, kind: str, number: int) -> None:
        """As bytes in both orders, GMP's among them, and in the digits of Python's integers."""
        bits = number.bit_length()
        for order in ("big", "little"):
            self.add(kind, number.to_bytes((bits + 7) // 8, order))
        self.add(kind, array("I", (number >> at & 2**30 - 1 for at in range(0, bits, 30))).tobytes())

    def add_reals(self, kind: str, vector: NDArray[Any]) -> None:
        for start in (0, vector.size // 2, vector.size - WINDOW):
            part = vector[start : start + WINDOW]
            self.add(kind, part.astype("<f8").tobytes())
            self.add(kind, part.astype("<f4").tobytes())
            for entry in part.tolist():
                self.add(kind, repr(entry).encode())

    def add_words(self, kind: str, vector: NDArray[Any]) -> None:
        for start in (0, vector.size // 2, vector.size - 2 * WINDOW):
            self.add(kind, vector[start : start + WINDOW].tobytes())


def around(
    owner: Any,
    name: str,
    *,
    before: Callable[..., None] | None = None,
    after: Callable[..., None] | None = None,
) -> None:
    """Call ``before`` with the arguments of a product's function, and ``after`` with its result too."""
    real = getattr(owner, name)

    def watched(*arguments: Any, **named: Any) -> Any:
        if before is not None:
            before(*arguments, **named)
        result = real(*arguments, **named)
        if after is not None:
            after(result, *arguments, **named)
        return result

    setattr(owner, name, watched)


def watch_keys(secrets: Secrets) -> None:
    """Write down keys, seeds, shares and everything derived from them, at either role."""
    from secagg.hazmat import agreement
    from secagg.keys import keyring, silo
    from secagg.keys.document import KeyDocument
    from secagg.masking import checks, dealing, transcript

    def made(_: None, key: agreement.AgreementKey, *__: object) -> None:
        secrets.add("private-key", key.private_bytes())

    def derived(key: bytes, *_: object, **__: object) -> None:
        secrets.add("derived-key", key)

    def shared(shares: dict[int, bytes], secret: bytes, *_: object) -> None:
        secrets.add("shared-secret", secret)
        for share in shares.values():
            secrets.add("share", share[-32:])

    def opened(plain: bytes, *_: object, **__: object) -> None:
        secrets.add("share", plain[1:33])
        secrets.add("salt", plain[33:])

    def held(secret: Any, document: KeyDocument, content: bytes, **__: object) -> None:
        match document.scheme:
            case "ckks":
                words = content[len(content) % 8192 :]  # As SEAL holds them: behind what says which it is.
                for start in range(0, len(words), 8192):
                    secrets.add("held-key", words[start : start + 8 * WINDOW])
            case "paillier":
                for prime in secret.primes():
                    secrets.add_number("held-key", int(prime))
            case "threshold-paillier":
                secrets.add_number("held-key", int(secret._share))

    around(agreement.AgreementKey, "__init__", after=made)
    around(agreement, "_exchange", after=lambda agreed, *_: secrets.add("agreed-key", agreed))
    around(agreement, "hkdf", after=derived)
    around(transcript, "hkdf", after=derived)
    around(dealing, "split", after=shared)
    around(dealing, "unseal", after=opened)
    around(keyring, "load_secret", after=held)
    around(silo, "seal_secret", after=lambda made, *_: secrets.add("content-key", made[0]))
    around(checks, "combine", after=lambda secret, *_: secrets.add("recovered-secret", secret))


def watch_learning(secrets: Secrets) -> None:
    """Write down what a silo trained and how it is encoded, and what silos alone open."""
    from secagg.learning import workload
    from secagg.terms import is_encrypted

    around(workload, "encode_mean", after=lambda words, *_, **__: secrets.add_words("encoded", words))

    def trained(_: object, weights: Any, base: Any) -> None:
        secrets.add_reals("trained", weights)
        secrets.add_reals("update", np.subtract(weights, base, dtype=np.float64))

    def opened(_: object, work: Any, terms: Any, aggregate: Any, **__: object) -> None:
        if is_encrypted(terms.scheme) and terms.kind == "train":
            secrets.add_words("sum", aggregate.total)
            secrets.add_reals("model", work._model.weights)

    around(workload.LearningWorkload, "_real", before=trained)
    around(workload.LearningWorkload, "apply", after=opened)


def watch_steps(gates: Path | None, dies: int) -> None:
    """Wait before steps that have a pipe; end the process in its ``dies``-th masked input."""
    from secagg.encrypted.silo import SharedKeySilo
    from secagg.masking.silo import MaskingSilo
    from secagg.messages import RoundOpened
    from secagg.plain import PlainSilo

    def gate(step: str) -> None:
        if gates is not None and (gates / step).exists():
            with (gates / step).open("rb", buffering=0) as pipe:
                pipe.read(1)

    inputs = 0

    def mask(*_: object) -> None:
        nonlocal inputs
        inputs += 1
        if inputs == dies:
            os._exit(1)
        gate("input")

    around(MaskingSilo, "_mask", before=mask)
    around(MaskingSilo, "_sign", before=lambda *_: gate("check"))
    around(MaskingSilo, "_unmask", before=lambda *_: gate("unmask"))
    around(SharedKeySilo, "_encrypt", before=lambda *_: gate("input"))
    around(SharedKeySilo, "_sign", before=lambda *_: gate("check"))
    around(SharedKeySilo, "_release", before=lambda *_: gate("open"))
    around(PlainSilo, "receive", before=lambda _, m: gate("input") if isinstance(m, RoundOpened) else None)


def watch_events(path: str) -> None:
    """Write down every frame of the control API."""
    from coordinator import client

    def received(data: bytes, *_: object) -> None:
        with Path(path).open("ab") as file:
            file.write(data)

    around(client, "decode", before=received)


def put_in(mutants: str, program: str) -> None:
    """Put mutants in the place of what they replace, as far as ``program`` has it."""
    for mutant in filter(None, mutants.split()):
        symbol, _, replacement = mutant.partition("=")
        if not symbol.startswith(("secagg.", f"{program}.")):
            continue
        module, _, name = replacement.partition(":")
        owner: Any = None
        parts = symbol.split(".")
        for split in range(len(parts) - 1, 0, -1):
            try:
                owner = importlib.import_module(".".join(parts[:split]))
            except ModuleNotFoundError:
                continue
            for part in parts[split:-1]:
                owner = getattr(owner, part)
            break
        setattr(owner, parts[-1], getattr(importlib.import_module(module), name))


def main() -> None:
    """Run the command that the arguments say."""
    program, *arguments = sys.argv[1:]
    given = os.environ
    put_in(given.get("WATCHED_MUTANTS", ""), program)
    secrets = Secrets(given["WATCHED_SECRETS"])
    watch_keys(secrets)
    if program == "silo":
        watch_learning(secrets)
        watch_steps(Path(given["WATCHED_GATES"]), int(given.get("WATCHED_DIES", "0")))
    elif arguments[0] == "run":
        watch_events(given["WATCHED_EVENTS"])
    sys.argv = [program, *arguments]
    importlib.import_module(f"{program}.cli").main()


if __name__ == "__main__":
    main()
