"""Discrete Gaussian noise: variables a second and core, beside the limits of the design and OpenDP's sampler.

*parts*: how many tables a variable is drawn from. *reach*: the largest magnitude that is ever drawn.
*tables*: what building them takes, once for each sampler. OpenDP's sampler is exact and adds to a list of
integers; it runs right after ours, on fewer variables.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import opendp.prelude as dp

from benchmarks import machine
from benchmarks.machine import median_cpu, show
from secagg.privacy.noise import SAMPLING_ERROR, DiscreteGaussian, reach

LIMITS = {256.0: 15e6, 1e5: 5e6}
"""Standard deviation -> variables a second and core that the design asks for."""

PEER_LENGTH = 20_000


def rate(sigma: float, length: int, *, runs: int) -> float:
    """Return how many variables a second of CPU are added to a uint32 vector of ``length``."""
    gaussian, vector = DiscreteGaussian(sigma), np.zeros(length, np.uint32)
    taken = median_cpu(lambda: gaussian.add_to(vector), runs=runs)
    return length / taken


def peer_rate(sigma: float, *, runs: int) -> float:
    """Return how many variables a second of CPU OpenDP's exact sampler adds."""
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64")
    add_noise, zeros = dp.m.make_gaussian(*space, sigma), [0] * PEER_LENGTH
    return PEER_LENGTH / median_cpu(lambda: add_noise(zeros), runs=runs)


def show_rates(sigmas: Sequence[float], length: int, *, runs: int) -> None:
    """Print the rate of each standard deviation, ours and the peer's one after the other."""
    rows: list[tuple[str | float, ...]] = []
    for sigma in sigmas:
        ours, theirs = rate(sigma, length, runs=runs), peer_rate(sigma, runs=runs)
        building = 1e3 * median_cpu(lambda sigma=sigma: DiscreteGaussian(sigma), runs=runs)  # type: ignore[misc] # its default
        limit = LIMITS.get(sigma)
        rows.append(
            (
                f"{sigma:g}",
                len(DiscreteGaussian(sigma).parts),
                f"{reach(sigma) / sigma:.2f} sigma",
                building,
                ours / 1e6,
                "" if limit is None else limit / 1e6,
                theirs / 1e6,
                ours / theirs,
            )
        )
    show(
        f"{length:.0e} variables added to a uint32 vector, millions a second of CPU",
        ("sigma", "parts", "reach", "tables, ms", "**ours**", "limit", "OpenDP", "ratio"),
        rows,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise", description=__doc__)
    parser.add_argument("--length", type=float, default=1e7, help="variables; default 1e7")
    parser.add_argument("--runs", type=int, default=7, help="of which the median is taken; default 7")
    parser.add_argument("--sigmas", default="4,256,1e5,1e9", help="default 4,256,1e5,1e9")
    asked = parser.parse_args()
    dp.enable_features("contrib")
    print(f"{machine.facts()}, opendp {version('opendp')}. Medians of {asked.runs} runs.")
    print(f"Sampling error at most {SAMPLING_ERROR:.1e} a variable.")
    show_rates([float(sigma) for sigma in asked.sigmas.split(",")], int(asked.length), runs=asked.runs)


if __name__ == "__main__":
    main()
