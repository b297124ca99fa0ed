import pytest
import torch
from torch import nn

from tandem.train import OptimizerConfig, build_optimizer, param_groups
from tandem.train.optimizer import clip_gradients


class Mixer(nn.Module):
    """Parameters under the names that the layers use."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.in_norm = nn.RMSNorm(4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.island = nn.Module()
        self.island.A_log = nn.Parameter(torch.ones(2, 2))
        self.island.dt_bias = nn.Parameter(torch.ones(2))
        self.island.router = nn.Parameter(torch.ones(3, 4))
        self.D = nn.Parameter(torch.ones(2, 2))
        self.experts = nn.Module()
        self.experts.up = nn.Parameter(torch.ones(3, 4, 4))
        self.shared_experts = nn.Linear(4, 4, bias=False)
        self.frozen = nn.Parameter(torch.ones(4, 4), requires_grad=False)


def test_groups():
    module = Mixer()
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups = param_groups(module, OptimizerConfig(expert_lr_factor=0.31))
    found = {group["name"]: [names[parameter] for parameter in group["params"]] for group in groups}
    assert found == {
        "matrices": ["embedding.weight", "conv.weight", "island.router", "shared_experts.weight"],
        "experts": ["experts.up"],
        "not decayed": ["D", "in_norm.weight", "conv.bias", "island.A_log", "island.dt_bias"],
    }
    by_name = {group["name"]: (group["weight_decay"], group["lr_factor"]) for group in groups}
    assert by_name == {"matrices": (0.1, 1.0), "experts": (0.1, 0.31), "not decayed": (0.0, 1.0)}


def test_empty_groups_are_left_out():
    assert [group["name"] for group in param_groups(nn.Linear(2, 2, bias=False), OptimizerConfig())] == ["matrices"]


def test_the_update_is_adamw():
    """Against the formulas of Loshchilov & Hutter (2019), written out."""
    config = OptimizerConfig(lr=0.1, betas=(0.9, 0.95), weight_decay=0.5, eps=1e-8)
    w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = build_optimizer([{"params": [w], "weight_decay": 0.5}], config)
    expected, m, v = w.detach().clone(), 0.0, 0.0
    for step in range(1, 6):
        w.grad = (w.detach() ** 2 + step).clone()
        m = 0.9 * m + 0.1 * w.grad
        v = 0.95 * v + 0.05 * w.grad**2
        expected = expected * (1 - 0.1 * 0.5)
        expected = expected - 0.1 * (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
        optimizer.step()
        torch.testing.assert_close(w.detach(), expected, rtol=1e-12, atol=1e-12)


def test_clipping():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([6.0, 0.0]), torch.tensor([8.0])
    assert clip_gradients(parameters, None, weight=2.0) == pytest.approx(5.0)
    assert parameters[0].grad.tolist() == [3.0, 0.0]
    assert clip_gradients(parameters, 1.0) == pytest.approx(5.0)
    assert parameters[1].grad.tolist() == pytest.approx([0.8])
    assert clip_gradients(parameters, 10.0) == pytest.approx(1.0)
    assert parameters[1].grad.tolist() == pytest.approx([0.8])
    parameters[1].grad = torch.tensor([torch.nan])
    assert torch.tensor(clip_gradients(parameters, 1.0)).isnan()
