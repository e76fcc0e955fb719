"""What a gradient says about the images that it was computed on: two published attacks, as they stand.

What it is: a small perceptron, and an attacker who knows its weights, the step size and how updates are
encoded, as every party of a federation does.

- ``from_linear_layer``: of one image, exactly. The gradient of a first layer's weights is the gradient of its
  biases times the image, so one row over its bias is the image.
- ``by_matching``: of a few images from the sum of their gradients. Images are sought whose own gradients,
  clipped as the silos clip, add up to the sum that was seen.

What it does not do: it uses no picture of what digits look like, so what it finds is in the gradient.

Source: Aono et al. 2018, *Privacy-Preserving Deep Learning via Additively Homomorphic Encryption*, section
III (the quotient); Zhu, Liu, Han 2019, *Deep Leakage from Gradients*, Algorithm 1 (matching, with L-BFGS);
Zhao, Mopuri, Bilen 2020, *iDLG* (labels from the last layer's gradient); Geiping et al. 2020, *Inverting
Gradients*, for several images at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from secagg.names import RealVector
from silo.manifest import Manifest

PIXELS, HIDDEN, CLASSES = 64, 32, 10

STEPS = 400
"""Of L-BFGS, in one search."""


def build_network() -> nn.Module:
    """Return the network: images, shape (n, 64), to scores of the digits, shape (n, 10)."""
    return nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))


class Attacker:
    """Knows the model that a round begins with.

    Args:
        weights: the global model, float64, shape (length,), in the order in which it travels.
    """

    def __init__(self, weights: RealVector) -> None:
        self._network = build_network()
        self._manifest = Manifest.of(self._network.state_dict())
        self._weights = self._tensors(weights)
        self._of_one = vmap(grad(self._loss), in_dims=(None, 0, 0))

    def from_linear_layer(self, gradient: RealVector) -> NDArray[np.float64]:
        """Return the image, shape (64,), of which ``gradient`` is a multiple of the gradient.

        Args:
            gradient: float64, shape (length,); of several images it gives a mixture.
        """
        parts = self._tensors(gradient)
        weights, biases = parts["0.weight"].numpy(), parts["0.bias"].numpy()
        row = int(np.argmax(np.abs(biases)))  # The best conditioned of the quotients.
        return np.asarray(weights[row] / biases[row])

    def labels(self, gradient: RealVector, count: int) -> list[int]:
        """Return the labels of ``count`` images, from the sum of their gradients.

        The gradient of the last bias is a probability, less 1 at an image's own label.
        """
        left = self._tensors(gradient)["2.bias"].numpy().copy()
        found = []
        for _ in range(count):
            found.append(int(np.argmin(left)))
            left[found[-1]] += 1.0
        return sorted(found)

    def by_matching(
        self,
        gradient: RealVector,
        labels: Sequence[int],
        *,
        l2_clip_norm: float | None = None,
        starts: int = 2,
        steps: int = STEPS,
    ) -> NDArray[np.float64]:
        """Return images, shape (count, 64), whose gradients add up to ``gradient`` as nearly as was found.

        Args:
            gradient: sum over the images, float64, shape (length,).
            labels: of the images.
            l2_clip_norm: to which the gradient of each was clipped; None for not at all.
            starts: searches from other random images; the nearest sum of all counts.
            steps: of L-BFGS, in one search.
        """
        target, of = torch.from_numpy(np.asarray(gradient)), torch.tensor(labels)

        def distance(images: Tensor) -> Tensor:
            off = self.gradient_sum(images, of, l2_clip_norm) - target
            return off.square().sum() / target.square().sum()

        best = min((_search(distance, len(labels), start, steps) for start in range(starts)), key=distance)
        return np.asarray(best.numpy())

    def gradient_sum(self, images: Tensor, labels: Tensor, l2_clip_norm: float | None) -> Tensor:
        """Return the sum of the images' gradients, each clipped, shape (length,)."""
        parts = self._of_one(self._weights, images, labels)
        rows = torch.cat([parts[entry.name].flatten(1) for entry in self._manifest.shared], dim=1)
        if l2_clip_norm is None:
            return rows.sum(dim=0)
        factors: Tensor = (l2_clip_norm / rows.norm(dim=1)).clamp(max=1.0)
        return factors @ rows

    def _loss(self, weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        scores = functional_call(self._network, weights, (image[None],))
        return nn.functional.cross_entropy(scores, label[None])

    def _tensors(self, vector: RealVector) -> dict[str, Tensor]:
        """Return the vector's parts by the names of the parameters."""
        parts, start = {}, 0
        for entry in self._manifest.shared:
            part = np.array(vector[start : start + entry.length], np.float64)
            parts[entry.name] = torch.from_numpy(part).reshape(entry.shape)
            start += entry.length
        return parts


def _search(distance: Callable[[Tensor], Tensor], count: int, start: int, steps: int) -> Tensor:
    """Return images, shape (count, 64), where L-BFGS from random ones ends."""
    random = torch.Generator().manual_seed(start)
    images = torch.rand(count, PIXELS, dtype=torch.float64, generator=random).requires_grad_()
    optimizer: Any = torch.optim.LBFGS(  # Its step has no types.
        [images],
        max_iter=steps,
        history_size=50,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = distance(images)
        torch.autograd.backward(value)
        return value.detach()

    optimizer.step(closure)
    return images.detach()


def similarity(image: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Return the cosine between two images less their means, -1 to 1: shades and contrast do not count.

    Between an image of 64 pixels and one of independent noise it is beyond 0.6 with a probability below 2e-7
    (Student's t with 62 degrees of freedom).
    """
    one, other = image - image.mean(), found - found.mean()
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other) or 1.0))


def matched(images: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``found`` in the order of ``images`` that makes the similarities largest.

    A sum does not say whose image is whose; the picture is sorted by who knows.
    """
    table = np.array([[similarity(image, each) for each in found] for image in images])
    return np.asarray(found[linear_sum_assignment(-table)[1]])
