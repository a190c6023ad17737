"""The losses against the papers' formulas, written out number by number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slipway.training.objectives.preference_losses import judge
from slipway.training.spec import PreferenceSpec


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_hand(
    spec: PreferenceSpec,
    logps: tuple[float, float],
    tokens: tuple[int, int],
    reference: tuple[float, float],
) -> float:
    (w, v), (nw, nv), (rw, rv), b = logps, tokens, reference, spec.beta
    d = (w - rw) - (v - rv)
    if spec.loss == "sigmoid":
        e = spec.label_smoothing
        loss = -math.log(s(b * d)) * (1 - e) - math.log(s(-b * d)) * e
    elif spec.loss == "hinge":
        loss = max(0.0, 1 - b * d)
    elif spec.loss == "ipo":
        loss = (((w - rw) / nw - (v - rv) / nv) - 1 / (2 * b)) ** 2
    elif spec.loss == "simpo":
        loss = -math.log(s(b / nw * w - b / nv * v - spec.simpo_gamma))
    else:
        pw, pv = math.exp(w / nw), math.exp(v / nv)
        ratio = math.log((pw / (1 - pw)) / (pv / (1 - pv)))
        loss = -w / nw - b * math.log(s(ratio))
    return loss + spec.ftx * -w / nw


logp = st.floats(-60, -2)
LOSSES = ["sigmoid", "ipo", "hinge", "orpo", "simpo"]


@pytest.mark.parametrize("loss", LOSSES)
@given(
    logps=st.tuples(logp, logp),
    reference=st.tuples(logp, logp),
    tokens=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    beta=st.floats(0.05, 2),
    ftx=st.sampled_from([0.0, 0.5]),
)
def test_each_loss_is_its_papers_formula(
    loss: str,
    logps: tuple[float, float],
    reference: tuple[float, float],
    tokens: tuple[int, int],
    beta: float,
    ftx: float,
) -> None:
    smoothing = 0.1 if loss == "sigmoid" else 0.0
    spec = PreferenceSpec(loss=loss, beta=beta, ftx=ftx, label_smoothing=smoothing)  # type: ignore[arg-type]
    judged = judge(
        torch.tensor([logps], dtype=torch.float64),
        torch.tensor([tokens]),
        torch.tensor([reference], dtype=torch.float64),
        spec,
    )
    assert float(judged.loss) == pytest.approx(by_hand(spec, logps, tokens, reference), abs=1e-6)


def test_a_model_that_is_its_reference_has_no_margin_and_loses_log_two() -> None:
    logps = torch.tensor([[-3.0, -5.0], [-7.0, -2.0]])
    judged = judge(logps, torch.tensor([[2, 3], [4, 1]]), logps, PreferenceSpec())
    assert judged.loss.tolist() == pytest.approx([math.log(2)] * 2)
    assert judged.chosen.tolist() == judged.rejected.tolist() == [0.0, 0.0]


def test_an_answer_that_is_certain_has_a_finite_orpo_loss_and_slope() -> None:
    logps = torch.tensor([[0.0, -40.0]], requires_grad=True)
    judged = judge(logps, torch.tensor([[2, 2]]), None, PreferenceSpec(loss="orpo"))
    judged.loss.sum().backward()
    assert torch.isfinite(judged.loss).all()
    assert logps.grad is not None and torch.isfinite(logps.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_makes_the_chosen_answer_likelier_and_the_rejected_one_less_likely(
    loss: str,
) -> None:
    logps = torch.tensor([[-6.0, -6.0]], requires_grad=True)
    spec = PreferenceSpec(loss=loss)  # type: ignore[arg-type]
    judge(logps, torch.tensor([[3, 3]]), torch.tensor([[-6.0, -6.0]]), spec).loss.sum().backward()
    assert logps.grad is not None
    chosen, rejected = logps.grad[0].tolist()
    assert chosen < 0 < rejected
