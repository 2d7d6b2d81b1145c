"""backends: which form of each operation runs on this machine, and why."""

from collections.abc import Mapping
from typing import Any

import torch

from moopt.kernels import dispatch
from moopt.kernels.dispatch import FORCED, GATHERED, Form
from moopt.kernels.fused import fused_form
from moopt.kernels.native import native_form

OPERATIONS = (
    *("gramian", "combine", "combine_update", "min_norm", "dual_cone"),
    *("gramian_min_norm", "token_logprob"),
)
_METRIC = frozenset({torch.float32})
_GRAMIANS: Mapping[str, Mapping[str, Any]] = {
    "of others": {"cross": True, "metric": frozenset()},
    "in a float32 metric": {"cross": False, "metric": _METRIC},
    "of others in a float32 metric": {"cross": True, "metric": _METRIC},
}


def backends() -> Mapping[str, Form]:
    """Operation and place -> the name of the form that runs there, and why it is the one.

    `MOOPT_REFERENCE_KERNELS=1`, set before `import moopt`, forces the form in plain PyTorch
    everywhere. Asking checks the faster forms, as their first use does: on a CUDA device their
    kernels are compiled, which takes seconds.

    Example:
        >>> from moopt.kernels import backends
        >>> backends()["short rows in host memory"].name
        'gathered'
    """
    native = native_form()
    forms = {
        "short rows in host memory": FORCED if dispatch.REFERENCE_ONLY else GATHERED,
        "gramian of long rows in host memory": native,
        "gramian of others or in a metric, long rows in host memory": FORCED
        if dispatch.REFERENCE_ONLY
        else Form("reference", "the compiled kernels have neither others nor a metric"),
        "combine of long rows in host memory": native,
        "combine_update of long rows in host memory": native,
        "min_norm of a batch in host memory": native,
    }
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        for operation in OPERATIONS:
            forms[f"{operation} on {device}"] = fused_form(operation, device)
        for words, options in _GRAMIANS.items():
            forms[f"gramian {words} on {device}"] = fused_form("gramian", device, **options)
    return forms
