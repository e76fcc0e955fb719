"""Vertical learning: parties hold different columns of the same records, and none shows them to another.

This module only names the public API; each name is loaded when it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secagg.vertical.alignment import Alignment, align
    from secagg.vertical.linear.regression import LinearRegression, LogisticRegression
    from secagg.vertical.party import Party
    from secagg.vertical.report import Report, Seen
    from secagg.vertical.split.network import SplitNetwork
    from secagg.vertical.split.settings import SplitSettings
    from secagg.vertical.trees.boosting import GradientBoosting

__all__ = [
    "Alignment",
    "GradientBoosting",
    "LinearRegression",
    "LogisticRegression",
    "Party",
    "Report",
    "Seen",
    "SplitNetwork",
    "SplitSettings",
    "align",
]

_HOME = {
    "Alignment": "secagg.vertical.alignment",
    "GradientBoosting": "secagg.vertical.trees.boosting",
    "LinearRegression": "secagg.vertical.linear.regression",
    "LogisticRegression": "secagg.vertical.linear.regression",
    "Party": "secagg.vertical.party",
    "Report": "secagg.vertical.report",
    "Seen": "secagg.vertical.report",
    "SplitNetwork": "secagg.vertical.split.network",
    "SplitSettings": "secagg.vertical.split.settings",
    "align": "secagg.vertical.alignment",
}


if not TYPE_CHECKING:  # A type checker that sees it would accept any name.

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'secagg.vertical' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
