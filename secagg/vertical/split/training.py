"""Training, a side for each party: embeddings go to the label party, gradients of turned labels come back.

In a round each party's embeddings of all records leave once, and a gradient for each comes back. Between, the
label party makes several passes over them, and after it each party one, with gradients at where its
embeddings were. Few rounds, because embeddings of one record with ever new noise can be averaged.

The label party trains two networks on the embeddings that it is sent. The *top* learns from the labels, with
a bottom of the label party's own columns beside it; nothing of it leaves. The *teacher* learns from labels
each of which was turned round with a probability, once, and from nothing else of the label party; the
gradients that leave are its. So whatever the other parties receive, over all rounds, is made from the turned
labels and from embeddings that left with noise: averaging gradients over rounds gives no more than the turned
label. Gradients are clipped and noised besides, which covers what they tell of the embeddings of a third.

Semi-honest: a party that leaves the protocol is named where its message cannot have come from it; one that
sends well-formed nonsense makes the model worse and learns no more than the messages that are due.

Source: Vepakomma, Gupta, Swedish, Raskar 2018, *Split learning for health* (the network); Liu, Zhang, Kang,
Li, Chen, Hong, Yang 2022, *FedBCD: A Communication-Efficient Collaborative Learning Framework for Distributed
Features* (several local steps in a round); Ghazi et al. 2021,
*Deep Learning with Label Differential Privacy* (training on labels after randomised response); attacks: Li,
Sun, Yang, Gao, Zhang, Shi, Smith 2022, *Label Leakage and Protection in Two-party Split Learning*.
"""

from __future__ import annotations

import os
from itertools import product

import numpy as np

from secagg.conversation import Side, hear, say
from secagg.errors import InputRefused
from secagg.names import RandomSource, RealVector, SiloId
from secagg.vertical.checkpoints import Checkpoints
from secagg.vertical.split.labels import check_labels, flipped
from secagg.vertical.split.learner import Learner, begun
from secagg.vertical.split.messages import Embeddings, Gradients, Named
from secagg.vertical.split.parts import NAME_SIZE, SplitPart
from secagg.vertical.split.ports import Network, Networks, RealMatrix
from secagg.vertical.split.seeds import batches, content
from secagg.vertical.split.settings import SplitTerms


def feature_side(
    terms: SplitTerms,
    own: SiloId,
    columns: RealMatrix,
    *,
    networks: Networks,
    checkpoints: Checkpoints,
    random: RandomSource = os.urandom,
) -> Side[SplitPart]:
    """Train a party's bottom model.

    Args:
        terms: that all agreed on.
        own: this party's name.
        columns: of the aligned records, shape (count, columns).
        networks: builds its bottom.
        checkpoints: its own.
        random: 32 bytes of it are this training's secret.

    Raises:
        FaultySilo: the label party left the protocol.
        InputRefused: the columns are not as described, or training ran away.
        ParameterError, EnvironmentFault: see ``begun``.

    Guarantees:
        No embedding leaves but clipped and noised, with the same noise if it leaves again.
        No two embeddings leave with one noise.
    """
    learner = yield from begun(
        terms, own, columns, None, networks=networks, checkpoints=checkpoints, random=random
    )
    settings, bottom, label_party = terms.settings, learner.networks["bottom"], terms.label_party
    scaled = learner.scaling(columns)
    for round in range(learner.round, settings.rounds):
        made = bottom.forward(scaled)
        noise = learner.random("embeddings", round, content(made))
        released = settings.embeddings.release(made, random=noise)
        yield from say(label_party, Embeddings(released))
        answer = yield from hear(label_party, Gradients)
        gradient = settings.gradients.received(label_party, answer.rows, terms.count)
        for rows in batches(terms):
            made = bottom.forward(scaled[rows])
            bottom.backward(settings.embeddings.through(made, gradient[rows] / len(rows)))
        learner.round = round + 1
        learner.keep(checkpoints)
    named = yield from hear(label_party, Named)
    return learner.part(named.network)


def label_side(
    terms: SplitTerms,
    columns: RealMatrix,
    labels: RealVector,
    *,
    networks: Networks,
    checkpoints: Checkpoints,
    random: RandomSource = os.urandom,
) -> Side[SplitPart]:
    """Train the label party's bottom and top, and teach the others.

    Args:
        terms: that all agreed on.
        columns: of the aligned records, shape (count, columns).
        labels: 0 or 1, shape (count,).
        networks: builds bottom, top and teacher.
        checkpoints: its own.
        random: 32 bytes of it are this training's secret.

    Raises:
        FaultySilo: a party left the protocol.
        InputRefused: columns or labels are not as described, or training ran away.
        ParameterError, EnvironmentFault: see ``begun``.

    Guarantees:
        What leaves depends on a label only through what randomised response made of it, once.
        It depends on no column of this party.
        No gradient leaves but clipped and noised, with the same noise if it leaves again.
    """
    check_labels(labels)
    if labels.shape != (terms.count,):
        raise InputRefused("shape", f"{labels.size} labels for {terms.count} records; one each")
    learner = yield from begun(
        terms, terms.label_party, columns, labels, networks=networks, checkpoints=checkpoints, random=random
    )
    settings, others = terms.settings, terms.feature_parties
    scaled = learner.scaling(columns)
    taught = flipped(labels, settings.label_flip, random=learner.random("labels"))
    for round in range(learner.round, settings.rounds):
        received = []
        for other in others:
            message = yield from hear(other, Embeddings)
            received.append(settings.embeddings.received(other, message.rows, terms.count))
        embedded = np.concatenate(received, axis=1)
        gradient = np.empty_like(embedded)  # Of the last pass is what stays.
        for _, rows in product(range(settings.passes), batches(terms)):
            _learn(learner, scaled[rows], embedded[rows], labels[rows])
            gradient[rows] = _descend(learner.networks["teacher"], embedded[rows], taught[rows]) * len(rows)
        for other, part in zip(others, np.split(gradient, len(others), axis=1), strict=True):
            noise = learner.random("gradients", other, round, content(part))
            yield from say(other, Gradients(settings.gradients.release(part, random=noise)))
        learner.round = round + 1
        learner.keep(checkpoints)
    name = learner.random("name")(NAME_SIZE)
    for other in others:
        yield from say(other, Named(name))
    return learner.part(name)


def _learn(learner: Learner, columns: RealMatrix, embedded: RealMatrix, labels: RealVector) -> None:
    """Take a step of the top and the label party's own bottom."""
    bottom, cut = learner.networks["bottom"], learner.terms.settings.embeddings
    made = bottom.forward(columns)
    together = np.concatenate((cut.clipped(made), embedded), axis=1)
    gradient = _descend(learner.networks["top"], together, labels)
    bottom.backward(cut.through(made, gradient[:, : made.shape[1]]))


def _descend(network: Network, embedded: RealMatrix, labels: RealVector) -> RealMatrix:
    """Take a step on the mean cross entropy, and return its gradient at the embeddings."""
    gradient = probability(network.forward(embedded)[:, 0]) - labels
    return network.backward(gradient[:, None] / len(labels))


def probability(odds: RealVector) -> RealVector:
    """Return the probability of the logarithm of odds."""
    return 0.5 * (1.0 + np.tanh(odds / 2))
