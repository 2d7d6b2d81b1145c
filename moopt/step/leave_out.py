"""leave_out_non_finite_: drop the rows of objectives that overflowed, where others did not."""

import torch

from moopt.gradients import GradientStore
from moopt.gradients.replicas import any_process


def leave_out_non_finite_(store: GradientStore, *, replicas: bool) -> tuple[str, ...]:
    """Drop every objective whose loss or gradient holds NaN or infinity; return their names.

    If all of them do, none is dropped, and the step counts as non-finite.

    Args:
        store: one row per objective, with the losses.
        replicas: whether there is a group whose processes train one model: an objective that one
            process drops is dropped by all.
    """
    flags = []
    for name, row in store.rows.items():
        values = [torch.linalg.vector_norm(g) for g in row if g is not None]
        loss = store.losses.get(name)
        values += [] if loss is None else [loss]
        whole = torch.stack([v.detach().double().to(values[0].device) for v in values])
        flags.append(~whole.isfinite().all())
    overflowed = torch.stack(flags)
    if replicas:
        overflowed = any_process(overflowed)
    out = tuple(n for n, bad in zip(store.rows, overflowed.tolist(), strict=True) if bad)
    if len(out) == len(store.rows):
        return ()
    for name in out:
        store.drop(name)
    return out
