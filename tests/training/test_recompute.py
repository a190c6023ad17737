from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slipway.datasets import Encoded
from slipway.training import lora, recompute
from slipway.training.batch import batches, losses
from slipway.training.recompute import lighten, recipe_of

CPU = torch.device("cpu")


def documents() -> list[Encoded]:
    draw = torch.Generator().manual_seed(5)
    made = []
    for number in range(4):
        ids = torch.randint(0, 300, (10 + 4 * number,), generator=draw).tolist()
        made.append(Encoded(str(number), ids, [-100, -100, *ids[2:]]))
    return made


def plain(base: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model with its own norms and MLPs."""
    from slipway.training import model

    with monkeypatch.context() as patch:
        patch.setattr(model, "lighten", lambda model: 0)
        return model.load_base(base, torch.float32, CPU)


def learn(model: Any) -> tuple[Tensor, dict[str, Tensor], int]:
    """Loss, gradients, and bytes kept between forward and backward."""
    model.train()
    ((_, batch),) = batches(documents(), 1 << 20, CPU)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = losses(model, batch).mean()
    loss.backward()
    weights = {p.data_ptr() for p in model.parameters()}
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, sum(n for at, n in kept.items() if at not in weights)


def adapted(model: Any) -> Any:
    torch.manual_seed(0)
    lora.attach(model, rank=4, alpha=8.0, dropout=0.0, target="all")
    for _, layer in lora.adapters(model):
        torch.nn.init.normal_(layer.lora_b, std=0.05)
    return model


def trained_whole(model: Any) -> Any:
    return model.requires_grad_(True)


@pytest.mark.parametrize(("method", "least"), [(adapted, 0.7), (trained_whole, 0.95)])
def test_a_lightened_model_has_the_same_loss_and_gradients_and_keeps_less(
    method: Any, least: float, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = plain(base, monkeypatch)
    light = copy.deepcopy(own)
    layers = own.config.num_hidden_layers
    assert lighten(light) == 3 * layers + 1  # two norms and an MLP in each, and the last norm
    loss, gradients, kept = learn(method(own))
    light_loss, light_gradients, light_kept = learn(method(light))
    torch.testing.assert_close(light_loss, loss, rtol=1e-6, atol=1e-6)
    assert light_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(light_gradients[name], gradient, rtol=1e-4, atol=1e-6)
    assert light_kept < least * kept


def test_the_gradients_of_norm_and_gate_are_exact() -> None:
    torch.manual_seed(0)
    x, gate, up = (torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(recompute._Gated.apply, (gate, up))
    weight = torch.rand(6, requires_grad=True)
    y, _ = recompute._RmsNorm.apply(x.float(), weight, 1e-6)
    wanted = torch.nn.functional.rms_norm(x.float(), (6,), weight, 1e-6)
    torch.testing.assert_close(y, wanted)
    grad = torch.randn(4, 6)
    found = torch.autograd.grad(y, (x, weight), grad)
    for one, other in zip(found, torch.autograd.grad(wanted, (x, weight), grad), strict=True):
        torch.testing.assert_close(one, other)


def test_a_norm_or_mlp_that_computes_something_else_stays_as_it_is() -> None:
    class OneMoreRMSNorm(nn.Module):  # type: ignore[misc]
        """As Gemma's: one is added to the weight."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.zeros(8)), 1e-6

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.rms_norm(x, (8,), 1 + self.weight, self.eps)

    class GeluMLP(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj = nn.Linear(8, 6), nn.Linear(8, 6)
            self.down_proj, self.act_fn = nn.Linear(6, 8), nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    model = nn.Sequential(OneMoreRMSNorm(), GeluMLP())
    x = torch.randn(2, 8)
    before = model(x)
    assert lighten(model) == 0
    assert torch.equal(model(x), before)


def test_a_copy_of_a_lightened_model_uses_its_own_weights(base: Path) -> None:
    from slipway.training.model import load_base

    model = load_base(base, torch.float32, CPU)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
        ids = torch.tensor([[1, 5, 9, 4]])
        one, two = model.get_decoder(), other.get_decoder()
        assert one.layers[0].mlp.forward.__self__ is one.layers[0].mlp
        assert two.layers[0].mlp.forward.__self__ is two.layers[0].mlp
        norms = [m.norm(m.embed_tokens(ids)) for m in (one, two)]
    assert not torch.allclose(*norms)


def test_what_several_layers_need_is_made_once_and_let_go() -> None:
    made = []

    def make(x: Tensor) -> Tensor:
        made.append(1)
        return x + 1

    recipe = recompute.Recipe(make)
    for _ in range(3):
        recipe.use()
    for _ in range(3):
        assert torch.equal(recipe.again(torch.ones(2)), torch.full((2,), 2.0))
    assert len(made) == 1
    assert recipe._made is None
    assert recipe_of(torch.ones(2)) is None
