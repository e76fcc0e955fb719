"""Write the test vectors: ``make vectors``, or ``python -m tests.vectors.generate``.

Nothing in the files depends on the machine or the moment, so running it twice changes nothing; a test
compares what it would write with what is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.vectors import (
    arithmetic,
    blocks,
    ckks_cases,
    coordinator_cases,
    derived_cases,
    encrypted_coordinator_cases,
    encrypted_silo_cases,
    frames,
    lock_cases,
    noised_silo_cases,
    paillier_cases,
    parts,
    privacy_cases,
    silo_cases,
)
from tests.vectors.cases import Group
from tests.vectors.notation import FOLDER, Json, dump

GROUPS: Mapping[str, Callable[[], Group]] = {
    "framing": blocks.framing,
    "derivation": blocks.derivation,
    "shamir": blocks.shamir,
    "keys": parts.keys,
    "shares": parts.shares,
    "terms": parts.terms,
    "locks": lock_cases.locks,
    "privacy": privacy_cases.privacy,
    "wire": frames.frames,
    "fixedpoint": arithmetic.numbers,
    "packing": paillier_cases.packing,
    "paillier": paillier_cases.paillier,
    "ckks": derived_cases.ckks,
    "encrypted": derived_cases.encrypted,
    "ceremony": derived_cases.ceremony,
}
FOLLOWED: Mapping[str, Callable[[], Json]] = {
    "silo": silo_cases.silo,
    "coordinator": coordinator_cases.coordinator,
    "noised_silo": noised_silo_cases.noised_silo,
    "paillier_silo": encrypted_silo_cases.paillier_silo,
    "paillier_coordinator": encrypted_coordinator_cases.paillier_coordinator,
    "threshold_silo": encrypted_silo_cases.threshold_silo,
    "threshold_coordinator": encrypted_coordinator_cases.threshold_coordinator,
    "ckks_silo": ckks_cases.ckks_silo,
    "ckks_coordinator": ckks_cases.ckks_coordinator,
}
"""Files with a script."""


def texts() -> dict[str, str]:
    """Return the text of every vector file, by file name."""
    groups = {name: build().content for name, build in GROUPS.items()}
    scripts = {name: build() for name, build in FOLLOWED.items()}
    return {f"{name}.json": dump(name, content) for name, content in (groups | scripts).items()}


def main() -> None:
    """Write every file."""
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
