"""What an attacker reads from an update: a patient's image, noise, or an image again, out of the sum.

python -m examples.privacy.inversion [--silos 4] [--images 1] [--out out/privacy]

What it is: real rounds of one step of gradient descent on handwritten digits (8 x 8 pixels, real ones, which
scikit-learn brings along), and the attacks of ``attacks`` on what the coordinator of each round saw: single
uploads without protection, single uploads under masks, the opened sum, and the opened sum with distributed
noise. In the last two columns the attacker is also told labels and clip.

What it does not do: no attack proves that there is no better one; that is what an epsilon is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from examples.privacy.attacks import STEPS, Attacker, build_network, matched, similarity
from examples.privacy.pictures import recovered
from secagg import Federation, Masking, Plain
from secagg.learning.means import mean_of
from secagg.messages import FromSilo, MaskedInput, PlainInput
from secagg.names import RealVector, SiloId
from secagg.privacy.calibration import Privacy
from secagg.privacy.params import DistributedDP
from secagg.scheme import Scheme
from secagg.session import Aggregate
from secagg.terms import Terms
from secagg.weighting import UPDATE, decode_mean
from silo import TorchTrainer

DELTA = 1e-5
EPSILONS = (8.0, 1.0)
CLIP = 1.0
SHOWN = 4

Images = NDArray[np.float64]


@dataclass(eq=False)
class Seen:
    """What the coordinator of one round saw.

    Attributes:
        uploads: silo -> integers, as they arrived.
        terms, sum: of the round.
    """

    uploads: dict[SiloId, NDArray[Any]] = field(default_factory=dict)
    terms: Terms | None = None
    sum: Aggregate | None = None

    def received(self, silo: SiloId, message: FromSilo) -> None:
        """Keep an upload."""
        if isinstance(message, MaskedInput | PlainInput):
            self.uploads[silo] = message.vector.array()[:-1]  # The last entry counts silos.

    def opened(self, terms: Terms, aggregate: Aggregate) -> None:
        """Keep the sum."""
        self.terms, self.sum = terms, aggregate

    def of_silo(self, silo: SiloId) -> RealVector:
        """Return the gradient that an upload in clear is of."""
        assert self.terms is not None
        update = decode_mean(self.terms.encoding, self.uploads[silo], silos=1).values
        assert update is not None
        return -update

    def as_if_clear(self, silo: SiloId) -> RealVector:
        """Return what a masked upload would be of, if it were not masked. Its weight is masked as well."""
        assert self.terms is not None
        segment, integers = self.terms.encoding.split(self.uploads[silo])[UPDATE]
        return -segment.decode(integers)

    def of_all(self, images: int) -> RealVector:
        """Return the sum of the gradients of ``images`` images that the opened sum is of."""
        assert self.terms is not None
        assert self.sum is not None
        mean = mean_of(self.terms, self.sum).values
        assert mean is not None
        return -mean * images


@dataclass(frozen=True, eq=False)
class Findings:
    """What was recovered.

    Attributes:
        images: shape (n, 64), the silos' own, those of one silo together.
        found: where it was read -> images, shape (n, 64), in the same order.
        guess: shape (64,), the mean of all other digits: what needs no update.
        cosines: silo -> cosine between its masked upload and its update.
    """

    images: Images
    found: Mapping[str, Images]
    guess: Images
    cosines: Mapping[SiloId, float]

    def similarities(self, where: str) -> list[float]:
        """Return the similarity of each image to what was recovered of it."""
        pairs = zip(self.images, self.found[where], strict=True)
        return [similarity(image, found) for image, found in pairs]


IN_CLEAR, MASKED, SUM = "upload in clear", "masked upload", "opened sum"


def noised(epsilon: float) -> str:
    """Return what the column of a noised sum is called."""
    return f"noised sum, epsilon {epsilon:g}"


def attack(*, silos: int, images: int = 1, seed: int = 0, steps: int = STEPS) -> Findings:
    """Run the rounds and attack what was seen of each.

    Args:
        silos: at least 3.
        images: of each silo, at least 1; all of them are in its one step.
        seed: of the choice of images, which are of a 0, a 1, a 2... in turn, and of the first weights.
        steps: of one search.
    """
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.data))  # Of data, no secret.
    count = silos * images
    order = _every_digit_in_turn(order, digits.target, count)
    pixels = np.asarray(digits.data[order] / 16.0, np.float64)
    own, labels = pixels[:count], np.asarray(digits.target[order[:count]], np.int64)
    names = [f"silo-{number}" for number in range(1, silos + 1)]
    template = build_network()
    trainers = {
        name: TorchTrainer(
            template,
            (torch.from_numpy(own[part]).float(), torch.from_numpy(labels[part])),
            optimizer=torch.optim.SGD,
            learning_rate=1.0,
            batch_size=count,
        )
        for name, part in zip(names, np.split(np.arange(count), silos), strict=True)
    }
    first = trainers[names[0]].initial(seed).astype(np.float64)

    clear = _round(trainers, first, Plain())
    masks = _round(trainers, first, Masking())
    attacker = Attacker(first)
    found = {
        IN_CLEAR: np.concatenate([_of_one(attacker, clear.of_silo(name), images) for name in names]),
        MASKED: np.concatenate(
            [_of_one(attacker, masks.as_if_clear(name), images, told=False) for name in names]
        ),
    }
    total = masks.of_all(count)
    found[SUM] = attacker.by_matching(total, attacker.labels(total, count), steps=steps)
    for epsilon in EPSILONS:
        mode = DistributedDP(
            Privacy(epsilon=epsilon, delta=DELTA, rounds=1),
            unit="record",
            l2_clip_norm=CLIP,
            sampling_rate=1.0,
            batch_size=count,
        )
        noisy = _round(trainers, first, Masking(), mode).of_all(count)
        found[noised(epsilon)] = attacker.by_matching(
            noisy, sorted(labels.tolist()), l2_clip_norm=CLIP, steps=steps
        )
    for name, part in found.items():
        if name not in {IN_CLEAR, MASKED}:
            found[name] = matched(own, part)
        elif images > 1:
            found[name] = np.concatenate(
                [
                    matched(own[start : start + images], part[start : start + images])
                    for start in range(0, count, images)
                ]
            )
    cosines = {name: _cosine(masks.as_if_clear(name), clear.of_silo(name)) for name in names}
    return Findings(own, found, pixels[count:].mean(axis=0), cosines)


def _every_digit_in_turn(
    order: NDArray[np.int64], labels: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Return ``order`` with ``count`` images of a 0, a 1, a 2... in front, each the next of its digit."""
    chosen: list[int] = []
    for place in range(count):
        alike = order[labels[order] == place % 10]
        chosen.append(int(alike[place // 10]))
    return np.concatenate([chosen, order[~np.isin(order, chosen)]]).astype(np.int64)


def _of_one(attacker: Attacker, gradient: RealVector, images: int, *, told: bool = True) -> Images:
    """Return what one silo's gradient says: of one image by a quotient, of several by matching."""
    if images == 1 or not told:
        return np.tile(attacker.from_linear_layer(gradient), (images, 1))
    gradient = gradient * images  # A silo's update is of the mean of its images.
    return attacker.by_matching(gradient, attacker.labels(gradient, images))


def _round(
    trainers: Mapping[SiloId, TorchTrainer],
    first: RealVector,
    scheme: Scheme,
    privacy: DistributedDP | None = None,
) -> Seen:
    """Let the silos take one step together, and return what their coordinator saw."""
    seen = Seen()
    Federation(
        silos=trainers,
        scheme=scheme,
        privacy=privacy,
        initial=first,
        metrics=(),
        weight_cap=64,
        least_total_weight=3,
        precision=1e-6,
        seed=0,
    ).run(1, progress=False, view=seen)
    return seen


def _cosine(one: RealVector, other: RealVector) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def main(
    *,
    silos: Annotated[int, typer.Option(min=3, help="How many.")] = 4,
    images: Annotated[int, typer.Option(min=1, help="Of each silo.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the images and the first weights.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("out/privacy"),
) -> None:
    """Attack real rounds, print how similar what was recovered is, draw it."""
    console = Console()
    torch.set_num_threads(1)
    findings = attack(silos=silos, images=images, seed=seed)
    console.print(
        f"{silos} silos, {images} digit{'s' * (images > 1)} each, one step. Similarity: cosine of the images "
        "less their means.\n"
    )
    console.print(similarity_table(findings))
    worst = max(abs(value) for value in findings.cosines.values())
    console.print(
        f"\ncosine of a masked upload and the update in it: {worst:.3f} at the most, of {silos} "
        f"(chance: about {_parameters() ** -0.5:.3f})",
        highlight=False,
    )
    out.mkdir(parents=True, exist_ok=True)
    path = out / "recovered_images.png"
    recovered(
        findings.images[:SHOWN],
        {
            where: (each[:SHOWN], findings.similarities(where)[:SHOWN])
            for where, each in findings.found.items()
        },
        silos=silos,
        path=path,
    )
    console.print(f"written {path}", soft_wrap=True, highlight=False)


def similarity_table(findings: Findings) -> Table:
    """Return the similarities by where an image was read."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("read from")
    for column in ("least", "mean", "most"):
        table.add_column(column, justify="right")
    guesses = [similarity(image, findings.guess) for image in findings.images]
    rows = {where: findings.similarities(where) for where in findings.found}
    for where, values in {**rows, "no update: the mean of other digits": guesses}.items():
        table.add_row(where, *(f"{value:.2f}" for value in (min(values), np.mean(values), max(values))))
    return table


def _parameters() -> int:
    return sum(parameter.numel() for parameter in build_network().parameters())


if __name__ == "__main__":
    typer.run(main)
