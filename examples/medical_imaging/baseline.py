"""The best rule that looks at brightness alone: what is lost when it moves to another scanner.

What it is: for every band of brightness the label that is most frequent in one hospital's training block.
No rule on a single pixel's brightness, thresholds included, labels more of those pixels rightly.

What it does not do: it sees no neighbourhood. That is the point: where it holds up, two scanners are
alike and a network learned on one would need no federation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from examples.medical_imaging.data import CLASSES, Hospital, load_hospitals

BANDS = 128


@dataclass(frozen=True, eq=False)
class BrightnessRule:
    """Label by brightness.

    Attributes:
        edges: float, shape (BANDS - 1,), rising.
        labels: int64, shape (BANDS,), the label of each band.
    """

    edges: NDArray[np.float64]
    labels: NDArray[np.int64]

    @classmethod
    def fit(cls, hospital: Hospital) -> BrightnessRule:
        """Count labels in equally filled bands of the hospital's training pixels."""
        pixels, labels = hospital.train_images.ravel(), hospital.train_labels.ravel()
        edges = np.quantile(pixels.astype(np.float64), np.linspace(0, 1, BANDS + 1)[1:-1])
        counts = np.zeros((BANDS, len(CLASSES)), np.int64)
        np.add.at(counts, (np.searchsorted(edges, pixels), labels), 1)
        return cls(edges, counts.argmax(axis=1))

    def dice(self, hospital: Hospital) -> float:
        """Return the mean Dice of grey and white matter on the hospital's held-out block."""
        predicted = self.labels[np.searchsorted(self.edges, hospital.held_out_images[:, 0])]
        return mean_dice(predicted, hospital.held_out_labels)


def mean_dice(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Return the mean over grey and white matter of 2 |A and B| / (|A| + |B|), each over all slices."""
    scores = []
    for label in range(1, len(CLASSES)):
        here, there = predicted == label, labels == label
        total = int(here.sum() + there.sum())
        scores.append(2.0 * int((here & there).sum()) / total if total else 1.0)
    return float(np.mean(scores))


def rule_matrix(hospitals: Mapping[str, Hospital]) -> NDArray[np.float64]:
    """Return Dice, shape (n, n): row i is the rule fitted on hospital i, column j where it is scored."""
    return np.array(
        [
            [rule.dice(there) for there in hospitals.values()]
            for rule in map(BrightnessRule.fit, hospitals.values())
        ]
    )


def main() -> None:
    """Print the matrix for seed 0."""
    hospitals = load_hospitals()
    print("fitted on, scored on".ljust(22) + "".join(name.rjust(8) for name in hospitals))
    for name, row in zip(hospitals, rule_matrix(hospitals), strict=True):
        print(name.ljust(22) + "".join(f"{score:8.2f}" for score in row))


if __name__ == "__main__":
    main()
