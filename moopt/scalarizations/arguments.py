"""What the public functions do with their masks and vectors, for any leading dimensions."""

import torch
from torch import Tensor


def mask_of(losses: Tensor, active: Tensor | None) -> Tensor:
    """bool like `losses`: the mask, and all True for None."""
    if active is None:
        return torch.ones_like(losses, dtype=torch.bool)
    return active.to(losses.device).expand(losses.shape)


def preference_or_uniform(preference: Tensor | None, losses: Tensor, active: Tensor) -> Tensor:
    """The preference on the active objectives, 0 elsewhere; None means 1 / (number active)."""
    if preference is None:
        on = active.to(losses.dtype)
        return on / on.sum(-1, keepdim=True).clamp_min(1.0)
    return torch.where(active, torch.as_tensor(preference).to(losses), 0.0)


def unit_preference(preference: Tensor | None, losses: Tensor, active: Tensor) -> Tensor:
    """The same divided by its length, at any scale; NaN where all of it is 0."""
    vector = preference_or_uniform(preference, losses, active)
    scaled = vector / vector.amax(-1, keepdim=True)
    return scaled / scaled.norm(dim=-1, keepdim=True)


def shifted_losses(losses: Tensor, reference: Tensor | None, active: Tensor) -> Tensor:
    """The losses above a reference point (None: 0); exactly 0 where inactive."""
    values = torch.where(active, losses, 0.0)
    if reference is None:
        return values
    return torch.where(active, values - torch.as_tensor(reference).to(losses), 0.0)


def softmax_of(logits: Tensor, losses: Tensor, active: Tensor) -> Tensor:
    """softmax over the active objectives, 0 elsewhere, in the shape of `losses`."""
    # The lowest finite number, where -inf would make the softmax of no objective NaN.
    lowest = torch.finfo(losses.dtype).min
    shares = logits.expand(losses.shape).masked_fill(~active, lowest).softmax(-1)
    return torch.where(active, shares, 0.0)
