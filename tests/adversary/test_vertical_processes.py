"""Attack ``vertical_processes``: search what crosses between the processes of silos that train together.

A bank and an insurer find their shared records and train, each in a process of its own, through a
coordinator over mutual TLS. The coordinator keeps what it forwards, each silo what it hears. All of that is
searched for another's identifiers, column values, also in bins and in fixed point, labels, gradients and
residuals, and what was forwarded for whatever was said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.hazmat.curve import POINT_SIZE
from secagg.payload import Payload
from secagg.psi.powers import Powers
from secagg.vertical.lattice.ciphertexts import SecretKey
from secagg.vertical.lattice.product import Layout, Masked, Matrix, hide
from secagg.vertical.lattice.ring import NARROW, Limbs
from secagg.vertical.trees.feature import FeatureParty
from secagg.vertical.trees.growing import Growing
from secagg.vertical.trees.levels import Nodes
from silo.vertical.job_file import VerticalJob
from silo.vertical.work import Work
from tests.adversary.mutants import BareExponent, NoCipher, rows_in_clear
from tests.adversary.watching import standing
from tests.faults.vertical_wire import leaks
from tests.faults.vertical_world import HIDDEN, LABEL_PARTY, LOGISTIC, NAMES, TREES, Columns, parties


def residuals_in_clear(key: SecretKey, vector: NDArray[np.int32], layout: Layout) -> tuple[bytes, Limbs]:
    """``hide`` with the vector where the first values of a ciphertext are."""
    seed, seconds = hide(key, vector, layout)
    seconds.reshape(-1)[: len(vector)] = vector.view(np.uint32)
    return seed, seconds


_masked_product, _summed = Matrix.masked_product, FeatureParty._summed


def columns_in_clear(self: Matrix, *given: Any) -> tuple[Masked, NDArray[np.uint64]]:
    """``Matrix.masked_product`` with its first polynomial where the first half of an answer is."""
    masked, masks = _masked_product(self, *given)
    masked.firsts[0] = NARROW.of_integers(self._polynomials[0, 0].reshape(-1).astype(np.int64))
    return masked, masks


def with_bins(self: FeatureParty, *given: Any) -> Payload | None:
    """``FeatureParty._summed`` with the bins of rows behind the sums, and the values at which bins end."""
    sums, binned = _summed(self, *given), self._binned
    cuts = np.concatenate(binned.cuts).view(np.uint8)
    return None if sums is None else Payload.of(np.concatenate([sums.array(), binned.bins.reshape(-1), cuts]))


def labels_for_nodes(self: Growing, level: int) -> Nodes:
    """``Growing._nodes`` that puts rows where their labels say, which the first gradients' signs are."""
    return Nodes.at(level, (self._fixed.integers[0] < 0).astype(np.uint8))


def text_in_clear(_: Powers, messages: Sequence[bytes], *_rest: Any) -> bytes:
    """``Powers.of_messages`` that sends identifiers as they are."""
    return b"".join(each[:POINT_SIZE].ljust(POINT_SIZE, b"\0") for each in messages)


FIT = parties()
FEW = "steps = 3\n"
"""What a mutant does to gradients would not let a regression converge."""
MASKED_PRODUCT = "secagg.vertical.lattice.product.Matrix.masked_product"
MUTANTS: dict[str, Callable[..., Any]] = {
    "secagg.channel.records.AESGCM": NoCipher,
    "secagg.psi.powers.Powers.of_messages": text_in_clear,
    "secagg.psi.receiver.Exponent": BareExponent,
    MASKED_PRODUCT: columns_in_clear,
    "secagg.vertical.linear.products.hide": residuals_in_clear,
    "secagg.vertical.trees.feature.FeatureParty._summed": with_bins,
    "secagg.vertical.trees.growing.Growing._nodes": labels_for_nodes,
    "secagg.vertical.trees.secret.SecretKey.encrypt": rows_in_clear,
}


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Columns]:
    with Columns(tmp_path_factory.mktemp("columns")) as world:
        yield world


def attack(columns: Columns, method: str) -> None:
    columns.begin(method, FIT, FIT)
    columns.mutants = standing(MUTANTS)
    silos = [columns.type(name, "fit") for name in NAMES]
    codes = [silo.end() for silo in silos]
    aligned = Work(columns.state(LABEL_PARTY) / "fit").alignment
    found = leaks(
        {name: columns.noted(name, "heard") for name in NAMES},
        columns.noted("coordinator", "forwarded"),
        job=VerticalJob.load(columns.folder / "cwd" / "job.toml"),
        trained=FIT,
        order=None if aligned is None else aligned.places,
    )
    assert not found, "\n".join(found)
    # What a mutant sends in clear opens to nothing, and the job ends; it was sent all the same.
    assert codes == [0, 0], "\n".join(silo.log for silo in silos)


METHODS = [
    pytest.param(TREES, id="trees"),
    pytest.param(LOGISTIC, id="logistic", marks=pytest.mark.full),
    pytest.param(HIDDEN, id="hidden", marks=pytest.mark.full),
]


@pytest.mark.parametrize("method", METHODS)
def test_vertical_processes(columns: Columns, method: str) -> None:
    attack(columns, method)


@pytest.mark.parametrize(
    ("method", "defence", "found"),
    [
        (TREES, "secagg.channel.records.AESGCM", "the coordinator reads what silos say"),
        (TREES, "secagg.psi.receiver.Exponent", "insurer sees points of bank"),
        (TREES, "secagg.psi.powers.Powers.of_messages", "sees identifiers of"),
        (TREES, "secagg.vertical.trees.secret.SecretKey.encrypt", "bank sees gradients of insurer"),
        (
            TREES,
            "secagg.vertical.trees.feature.FeatureParty._summed",
            r"insurer sees values of bank\s+insurer sees bins of bank",
        ),
        (TREES, "secagg.vertical.trees.growing.Growing._nodes", "bank sees labels of insurer"),
        (LOGISTIC, "secagg.vertical.linear.products.hide", "bank sees residuals of insurer"),
        (HIDDEN + FEW, "secagg.vertical.linear.products.hide", "bank sees residuals of insurer"),
        (LOGISTIC + FEW, MASKED_PRODUCT, "insurer sees columns in fixed point of bank"),
        (HIDDEN + FEW, MASKED_PRODUCT, "bank sees columns in fixed point of insurer"),
    ],
    ids=[
        "channel",
        "points",
        "identifiers",
        "gradients",
        "bins",
        "labels",
        "residuals",
        "hidden-residuals",
        "columns",
        "hidden-columns",
    ],
)
def test_vertical_processes_mutant(
    monkeypatch: pytest.MonkeyPatch, columns: Columns, method: str, defence: str, found: str
) -> None:
    monkeypatch.setattr(defence, MUTANTS[defence])
    with pytest.raises(AssertionError, match=found):
        attack(columns, method)
