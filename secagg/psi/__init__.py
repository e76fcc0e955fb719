"""Private set intersection: parties learn which records they all have, and nothing of the others.

This module only names the public API; each name is loaded when it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secagg.psi.campaign import Campaign
    from secagg.psi.identifiers import Rule
    from secagg.psi.intersection import Intersection, intersect
    from secagg.psi.many.intersection import ManyIntersection, intersect_many
    from secagg.psi.terms import IntersectionPolicy
    from secagg.shared_sums.sums import IntersectionSum, intersection_sum
    from secagg.shared_sums.terms import SumPolicy

__all__ = [
    "Campaign",
    "Intersection",
    "IntersectionPolicy",
    "IntersectionSum",
    "ManyIntersection",
    "Rule",
    "SumPolicy",
    "intersect",
    "intersect_many",
    "intersection_sum",
]

# Sums need Paillier too, so their code stands above both; users find it here, beside what it resembles.

_HOME = {
    "Campaign": "secagg.psi.campaign",
    "Intersection": "secagg.psi.intersection",
    "IntersectionPolicy": "secagg.psi.terms",
    "IntersectionSum": "secagg.shared_sums.sums",
    "ManyIntersection": "secagg.psi.many.intersection",
    "Rule": "secagg.psi.identifiers",
    "SumPolicy": "secagg.shared_sums.terms",
    "intersect": "secagg.psi.intersection",
    "intersect_many": "secagg.psi.many.intersection",
    "intersection_sum": "secagg.shared_sums.sums",
}


if not TYPE_CHECKING:  # A type checker that sees it would accept any name.

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'secagg.psi' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
