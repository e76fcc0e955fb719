"""Which way of learning a job asks for."""

from __future__ import annotations

from secagg.errors import ParameterError
from silo.vertical.job_file import VerticalJob
from silo.vertical.learner import Learner


def learner_of(job: VerticalJob) -> Learner:
    """Return the way of learning of ``job``; only its code is loaded.

    Raises:
        MissingExtra: a package that it needs is not installed.
        ParameterError: the job names none.
    """
    if (regression := job.logistic or job.linear) is not None:
        from silo.vertical.regression import Regression

        return Regression(regression.settings())
    if job.trees is not None:
        from silo.vertical.boosted import BoostedTrees

        return BoostedTrees(job.trees.settings())
    if job.split is not None:
        from silo.vertical.network import Network

        return Network(job.split.settings(), job.split.networks())
    raise ParameterError("the job names no way of learning")
