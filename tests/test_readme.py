"""The python blocks of the README and the documentation run, and print what they show."""

from __future__ import annotations

import contextlib
import copy
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import moopt
from tests.import_rules import python_blocks

ROOT = Path(__file__).resolve().parents[1]
DOCS = [
    "docs/adding_a_method.md",
    "docs/api/kernels.md",
    "docs/api/projection.md",
    "docs/choosing.md",
    "docs/how_a_step_works.md",
    "docs/performance.md",
    "docs/training.md",
]


def run_blocks(page: str) -> dict[str, Any]:
    """Execute the page's blocks in one namespace, as a reader would who pastes them in turn."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    blocks = python_blocks((ROOT / page).read_text(encoding="utf-8"))
    assert blocks, f"{page} has no python block"
    for i, block in enumerate(blocks):
        exec(compile(block, f"{page}#{i}", "exec"), namespace)
    return namespace


def without_numbers(text: str) -> str:
    """`text` with each number as `#`: wording is compared, rounding is not."""
    return re.sub(r"-?\d[\d.]*(e[-+]?\d+)?", "#", text).strip()


@pytest.fixture(scope="module")
def readme() -> tuple[dict[str, Any], str]:
    """What the README's blocks define, and what they print."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        namespace = run_blocks("README.md")
    return namespace, printed.getvalue()


@pytest.mark.parametrize("page", DOCS)
def test_the_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # one of them saves a checkpoint
    run_blocks(page)


def test_no_page_with_blocks_is_left_out() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = {str(p.relative_to(ROOT)) for p in pages if python_blocks(p.read_text("utf-8"))}
    assert found == {"README.md", *DOCS}


def test_the_readme_shows_what_its_loop_prints(readme: tuple[dict[str, Any], str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"^```text\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert without_numbers(shown.group(1)) == without_numbers(readme[1])


def test_the_readme_loop_is_under_ten_lines() -> None:
    block = python_blocks((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    loop = block[block.index("optimizer = ") :].strip().splitlines()
    assert len(loop) < 10


def test_the_documented_method_is_short_and_runs() -> None:
    page = (ROOT / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
    method = python_blocks(page)[0]
    assert len(method.strip().splitlines()) < 25
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(method, "adding_a_method", "exec"), namespace)
    gramian = torch.diag(torch.tensor([1.0, 4.0]))
    output = namespace["InverseNorm"]()(moopt.StepStatistics(gramian=gramian))
    assert output.weights.tolist() == [0.5, 0.25]


def test_the_readme_unlearning_step_forgets_and_names_the_inactive_divergence(
    readme: tuple[dict[str, Any], str],
) -> None:
    transformers = pytest.importorskip("transformers")
    namespace = readme[0]
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 7}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **layers))
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    batches = []
    for ids in torch.randint(0, 7, (2, 3, 6)):
        mask = torch.ones_like(ids)
        mask[:, -1] = 0
        labels = ids.where(mask == 1, -100)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    forget, retain = batches
    optimizer = namespace["CommonDescent"](torch.optim.SGD(model.parameters(), lr=0.5))
    step = namespace["unlearning_step"]
    first = step(model, reference, optimizer, forget, retain)
    assert first.names == ("forget", "kl", "retain")
    assert first.inactive == ("kl",)
    last = step(model, reference, optimizer, forget, retain)
    assert last.losses[0] < first.losses[0]
    assert last.losses[2] < first.losses[2]
    assert last.inactive == ()


def broken_links(page: Path) -> list[str]:
    """Relative links of a Markdown page that lead to no file."""
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    return [target for target in local if not (page.parent / target).exists()]


def test_links_lead_to_files(tmp_path: Path) -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*/*.md")]
    pages = [page for page in pages if "_build" not in page.parts]
    assert {str(p.relative_to(ROOT)): broken_links(p) for p in pages if broken_links(p)} == {}
    planted = tmp_path / "page.md"
    planted.write_text("[here](page.md) and [nowhere](missing.md#part)")
    assert broken_links(planted) == ["missing.md"]
