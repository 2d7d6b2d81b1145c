"""The gate of the labels' log-probabilities: what a form must give before it is used."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def token_logprob_gate(
    form: Callable[[Tensor, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor, Tensor]],
    device: torch.device,
    dtypes: Iterable[torch.dtype],
) -> str:
    """What a form of the labels' log-probabilities gives that float64 does not.

    Args:
        form: of hidden rows, matrix, bias and labels; the label's logit, the largest logit, and the
            sum of the exponentials of the logits less that.
        device: where the rows are made.
        dtypes: of the products.
    """
    generator = torch.Generator().manual_seed(0)
    for dtype in dtypes:
        for count, vocabulary, width in ((0, 5, 4), (1, 1, 1), (63, 257, 40), (130, 301, 64)):
            drawn = [torch.randn(s, generator=generator) for s in (count, vocabulary)]
            hidden = torch.randn(count, width, generator=generator)
            weight = torch.randn(vocabulary, width, generator=generator) / width**0.5
            low = drawn[1] - 30.0  # a column that is not there, with a logit of 0, would rule
            last = torch.zeros(vocabulary)
            last[-1] = 40.0  # a last column that is left out is missed
            cut = drawn[1].clone()
            cut[: vocabulary // 2] = -math.inf  # whole blocks of columns
            targets = torch.randint(vocabulary, (count,), generator=generator)
            targets[: count // 2] = vocabulary - 1
            for bias in (None, low, last, cut):
                told = _wrong_sums(
                    form,
                    hidden.to(device, dtype),
                    weight.to(device, dtype),
                    None if bias is None else bias.to(device, dtype),
                    targets.to(device),
                )
                if told:
                    return f"{count} rows, {vocabulary} columns, {dtype}: {told}"
    return ""


def _wrong_sums(
    form: Callable[[Tensor, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor, Tensor]],
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
) -> str:
    own, shift, total = (x.double() for x in form(hidden, weight, bias, targets))
    added = torch.zeros_like(weight[:, 0]) if bias is None else bias
    logits = hidden.double() @ weight.double().T + added.double()
    finite = added.double().masked_fill(added == -math.inf, 0.0)
    size = (hidden.double().abs() @ weight.double().abs().T + finite.abs()).amax(1)
    # Logits are rounded to the dtype; products of float32 may be those of tensor cores.
    allowed = size * max(torch.finfo(hidden.dtype).eps, _product_eps(hidden)) + 1e-5
    expected = logits.gather(1, targets[:, None]).squeeze(1)
    for name, found, exact in (
        ("a label's logit", own, expected),
        ("a largest logit", shift, logits.amax(1)),
        ("a log of sums", shift + total.log(), logits.logsumexp(1)),
    ):
        alike = (found == exact) | ((found - exact).abs() <= allowed)
        if not bool(alike.all()):
            return f"{name} is {found[~alike][0]:.6g}, not {exact[~alike][0]:.6g}"
    return ""


def _product_eps(hidden: Tensor) -> float:
    coarse = hidden.is_cuda and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return 2.0**-10 if coarse else hidden.shape[1] * 2.0**-23
