"""How a pair of answers is judged: losses as functions of log-probabilities; pure.

`chosen` and `rejected` are an answer's log-probability under the model, the sum over its tokens;
`reference` the same under the reference; `mean` divides by the answer's tokens.

    sigmoid  -log s(b d) (1 - e) - log s(-b d) e      DPO, Rafailov 2023, (7); e: label smoothing
    hinge    max(0, 1 - b d)                          SLiC, Zhao 2023
    ipo      (mean d - 1 / (2 b))^2                   Azar 2023, (17)
    orpo     -mean chosen - b log s(odds(mean chosen) - odds(mean rejected))   Hong 2024, (6)
    simpo    -log s(b (mean chosen - mean rejected) - gamma)                   Meng 2024, (6)

with d = (chosen - reference chosen) - (rejected - reference rejected), s the logistic function, and
odds(x) = log(p / (1 - p)) of p = exp(x). SimPO's `gamma` is the wanted difference of rewards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from slipway.training.spec import PreferenceSpec

REFERENCE_FREE = frozenset({"orpo", "simpo"})
_SURE = -1e-6  # a mean log-probability nearer to zero has no finite odds


@dataclass(frozen=True, slots=True)
class Judged:
    """Pairs under a loss; all of [pairs].

    Attributes:
        chosen, rejected: rewards: b times the log-probability, above the reference's if the loss
            has one. Without gradient.
    """

    loss: Tensor
    chosen: Tensor
    rejected: Tensor


def judge(logps: Tensor, tokens: Tensor, reference: Tensor | None, spec: PreferenceSpec) -> Judged:
    """The loss of each pair.

    Args:
        logps: [pairs, 2], sums over the answers' tokens; chosen first.
        tokens: [pairs, 2], the answers' lengths.
        reference: [pairs, 2] as `logps`; None for a loss without one.
    """
    means = logps / tokens
    beta = spec.beta
    if spec.loss in REFERENCE_FREE:
        rewards = beta * means
        if spec.loss == "orpo":
            ratio = _odds(means[:, 0]) - _odds(means[:, 1])
            loss = -means[:, 0] - beta * logsigmoid(ratio)
        else:
            loss = -logsigmoid(rewards[:, 0] - rewards[:, 1] - spec.simpo_gamma)
    else:
        assert reference is not None
        above = logps - reference
        rewards = beta * above
        margin = rewards[:, 0] - rewards[:, 1]
        if spec.loss == "ipo":
            above = above / tokens
            rewards = beta * above
            loss = (above[:, 0] - above[:, 1] - 1 / (2 * beta)) ** 2
        elif spec.loss == "hinge":
            loss = torch.relu(1 - margin)
        else:
            wrong = spec.label_smoothing
            loss = -(1 - wrong) * logsigmoid(margin) - wrong * logsigmoid(-margin)
    if spec.ftx:
        loss = loss - spec.ftx * means[:, 0]
    rewards = rewards.detach()
    return Judged(loss, rewards[:, 0], rewards[:, 1])


def _odds(mean: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = exp(mean)."""
    mean = mean.clamp_max(_SURE)
    return mean - torch.log(-torch.expm1(mean))
