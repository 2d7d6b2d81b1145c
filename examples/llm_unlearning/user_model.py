"""A user's own causal language model: loaded, and checked before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from examples.llm_unlearning.user_data import UserError

#: Float32 rounding; even an untrained bidirectional model changes by dozens of times more.
CAUSAL_RTOL = 1e-5


def load_causal_model(path: str, option: str, device: torch.device) -> tuple[Any, Any]:
    """The model and tokenizer at `path`.

    Args:
        path: a folder that `save_pretrained` wrote, or a model's name in the local Hugging Face
            cache.
        option: the command line's name for it, for error messages.
        device: where the model goes.

    Raises:
        UserError: nothing there, no tokenizer, or a model that is not a causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    looks_like_folder = path.startswith((".", "/", "~")) or "\\" in path or path.count("/") > 1
    if looks_like_folder and not Path(path).is_dir():
        raise UserError(f"`{option}` must be a folder or a cached model's name; no folder {path}.")
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"`{option}` {path} holds no readable model: {_first(error)}") from error
    _check_architecture(config, path, option)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"`{option}` {path} holds no readable tokenizer; save it there with"
            f" tokenizer.save_pretrained: {_first(error)}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of `{option}` {path} has no `eos_token`; set one first.")
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"`{option}` {path} cannot be loaded: {_first(error)}") from error
    model = model.to(device).eval()
    if not _is_causal(model):
        raise UserError(
            f"`{option}` {path} is not causal: its output at a position depends on later tokens;"
            " unlearning here needs a causal language model, such as a Llama."
        )
    return model, tokenizer


def _check_architecture(config: Any, path: str, option: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    named = config.architectures or []
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not known or (named and not causal & set(named)):
        what = ", ".join(named) or config.model_type
        raise UserError(
            f"`{option}` {path} is a {what}, not a causal language model, such as a Llama."
        )


def _is_causal(model: Any) -> bool:
    """Whether a change of the last token leaves the outputs before it alone."""
    device = next(model.parameters()).device
    ids = torch.zeros(1, 8, dtype=torch.int64, device=device)
    changed = ids.clone()
    changed[0, -1] = model.config.vocab_size - 1
    with torch.no_grad():
        first, second = (
            model(input_ids=i, attention_mask=torch.ones_like(i)).logits.float()[0, :-1]
            for i in (ids, changed)
        )
    return bool((first - second).abs().max() <= CAUSAL_RTOL * first.abs().max())


def same_vocabulary(tokenizer: Any, other: Any, option: str) -> None:
    """Raise UserError unless two tokenizers agree, so that their models can be compared."""
    if tokenizer.get_vocab() != other.get_vocab():
        raise UserError(
            f"`{option}` must have the same tokenizer as `--model`; its vocabulary differs."
        )


def chosen_device(name: str) -> torch.device:
    """The device of `--device`: "auto" is CUDA where it is available."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"`--device` {name} cannot be used: {_first(error)}") from error
    return device


def writable_folder(path: Path) -> Path:
    """Make the output folder now: a run must not fail at its end for want of a place."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"`--out` {path} cannot be made: {_first(error)}") from error
    return path


def _first(error: BaseException) -> str:
    """The first line of an error's text, as the end of one sentence."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.rstrip(".") + "."
