"""A user's own data: a folder of JSONL files, checked before anything is trained."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from examples.llm_unlearning.world import Example, World

REQUIRED_FILES = ("forget", "retain")
OPTIONAL_FILES = (
    "forget_heldout",
    "retain_heldout",
    "retain_validation",
    "world_facts",
    "holdout",
)
#: Without retain_validation.jsonl, this share of the retain set is kept apart for validation.
VALIDATION_SHARE = 0.2

REQUIRED_FIELDS = ("question", "answer")
OPTIONAL_FIELDS = ("paraphrased_answer", "wrong_answers", "subject", "attribute")


class UserError(Exception):
    """Something the user can put right; its text is one sentence for stderr."""


def read_world(directory: Path, seed: int = 0) -> World:
    """Read forget.jsonl, retain.jsonl and the optional files of a folder.

    Args:
        directory: holds one JSON object per line in each file; see README.md for the fields.
        seed: of the draw that keeps a part of the retain set apart for validation.

    Raises:
        UserError: a missing folder or file, an empty split, a line that is not JSON, a missing,
            misspelt or malformed field.
    """
    if not directory.is_dir():
        raise UserError(f"`--data` must be a folder; there is none at {directory}.")
    splits = {}
    for split in REQUIRED_FILES + OPTIONAL_FILES:
        path = directory / f"{split}.jsonl"
        if path.is_file():
            splits[split] = _read_split(path, split)
        elif split in REQUIRED_FILES:
            raise UserError(
                f"`--data` must hold {split}.jsonl; there is no such file in {directory}."
            )
    if "retain_validation" not in splits:
        retain = splits["retain"]
        count = int(len(retain) * VALIDATION_SHARE)
        apart = set(random.Random(seed).sample(range(len(retain)), count))
        if apart:
            splits["retain"] = tuple(e for i, e in enumerate(retain) if i not in apart)
            splits["retain_validation"] = tuple(e for i, e in enumerate(retain) if i in apart)
    return World(splits)


def _read_split(path: Path, split: str) -> tuple[Example, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} cannot be read as UTF-8 text: {error}.") from error
    examples = tuple(
        _example(line, f"{path.name}, line {number}", split)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )
    if not examples:
        raise UserError(f"{path.name} must hold at least one example; it is empty.")
    return examples


def _example(line: str, where: str, split: str) -> Example:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno}).") from error
    if not isinstance(fields, dict):
        raise UserError(f"{where}: must be a JSON object with `question` and `answer`.")
    allowed = REQUIRED_FIELDS + OPTIONAL_FIELDS
    for name in fields:
        if name not in allowed:
            raise UserError(
                f"{where}: unknown field `{name}`; the fields are {', '.join(allowed)}."
            )
    for name in REQUIRED_FIELDS:
        if name not in fields:
            raise UserError(f"{where}: the field `{name}` is missing.")
    for name in allowed:
        if name in fields and name != "wrong_answers" and not _is_text(fields[name]):
            raise UserError(f"{where}: `{name}` must be a text that is not empty.")
    wrong = fields.get("wrong_answers", [])
    if not isinstance(wrong, list) or not all(map(_is_text, wrong)):
        raise UserError(f"{where}: `wrong_answers` must be a list of texts that are not empty.")
    return Example(
        question=fields["question"],
        answer=fields["answer"],
        paraphrased_answer=fields.get("paraphrased_answer", fields["answer"]),
        wrong_answers=tuple(wrong),
        subject=fields.get("subject", fields["question"]),
        attribute=fields.get("attribute", ""),
        split=split,
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
