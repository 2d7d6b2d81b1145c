"""Small models with several losses, shared by the optimizer tests."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import moopt

# The Gramian is float64, the combination one float32 rounding per objective.
FLOAT32_COMBINE_RTOL = 1e-6


class TwoHeads(nn.Module):
    """A shared trunk and two task heads."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.trunk = nn.Linear(3, width)
        self.first = nn.Linear(width, 1)
        self.second = nn.Linear(width, 1)

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        """Two regressions that pull the trunk in different directions."""
        hidden = torch.tanh(self.trunk(x))
        return {
            "first": (self.first(hidden) - 1).square().mean(),
            "second": 3 * (self.second(hidden) + x.sum(-1, keepdim=True)).square().mean(),
        }


class OneOutput(nn.Module):
    """No heads: every parameter is shared by every objective."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        """Three losses of the same outputs, in conflict."""
        y = self.net(x)
        return {
            "a": (y[:, 0] - 1).square().mean(),
            "b": (y[:, 0] + y[:, 1]).square().mean(),
            "c": 0.1 * (y - x[:, :2]).square().mean(),
        }


def seeded(cls: type[nn.Module], seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model with reproducible parameters."""
    torch.manual_seed(seed)
    return cls().to(dtype)


def batch(seed: int = 0, size: int = 8, dtype: torch.dtype = torch.float32) -> Tensor:
    """A reproducible batch `[size, 3]`."""
    return torch.randn(size, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)


def parameters_of(model: nn.Module) -> list[Tensor]:
    """Detached copies of the parameters."""
    return [p.detach().clone() for p in model.parameters()]


def jacobian(losses: dict[str, Tensor], parameters: list[Tensor]) -> Tensor:
    """float64 `[m, n]` by torch.autograd.grad: the oracle of the capture."""
    rows = []
    for loss in losses.values():
        grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        flat = [
            (torch.zeros_like(p) if g is None else g).flatten().double()
            for g, p in zip(grads, parameters, strict=True)
        ]
        rows.append(torch.cat(flat))
    return torch.stack(rows)


def twin(model: nn.Module) -> nn.Module:
    """An independent copy."""
    return copy.deepcopy(model)


def sgd(parameters, lr=0.1, **options):
    """SGD, wrapped; `options` are of `CommonDescent`."""
    return moopt.CommonDescent(torch.optim.SGD(parameters, lr=lr), **options)


def linear():
    """A linear layer with two outputs, and inputs."""
    torch.manual_seed(0)
    return torch.nn.Linear(4, 2), torch.randn(8, 4)


def two_losses(net, x):
    """Of the outputs of `linear()`; they conflict."""
    y = net(x)
    return {"a": y[:, 0].square().mean(), "b": (y[:, 1] - 1.0).square().mean() + y[:, 0].mean()}
