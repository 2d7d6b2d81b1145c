"""A user's own model and data: clear refusals before training, and a run end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from examples.llm_unlearning import run
from examples.llm_unlearning.training import load_trained, train_model
from examples.llm_unlearning.user_data import UserError, read_world
from tests.examples.tiny import TINY, write_data

SPLITS = ("forget", "retain", "world_facts", "holdout")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_model(TINY, tmp_path_factory.mktemp("models"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", TINY.world.build(), SPLITS)


def own(model: Path, data: Path, out: Path) -> list[str]:
    """The options of a quick run on one's own model and data."""
    paths = ["--model", str(model), "--data", str(data), "--out", str(out)]
    return [*paths, "--batch-size", "4", "--device", "cpu"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on stderr of a command that must exit with 2."""
    capsys.readouterr()  # what setting the test up printed
    assert run.main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert captured.out == ""
    return lines[0]


def test_a_run_end_to_end(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    before = torch.cat([p.flatten() for p in load_trained(model)[0].parameters()])
    code = run.main([*own(model, data, out), "--evaluations", "12", "--lrs", "1e-3", "1e-2"])
    assert code == 0
    unlearned, _ = load_trained(out / "model")
    after = torch.cat([p.flatten() for p in unlearned.parameters()])
    assert not torch.equal(before, after)
    unchanged = torch.cat([p.flatten() for p in load_trained(model)[0].parameters()])
    assert torch.equal(before, unchanged)
    summary = json.loads((out / "model" / "summary.json").read_text())
    assert summary["after"]["ks_pvalue"] == "needs a gold model (--gold PATH)"
    assert summary["lr"] in (1e-3, 1e-2)
    results = json.loads((out / "results.json").read_text())
    (method,) = results["methods"].values()
    assert method["seeds"]["0"]["matched"] is None
    assert (out / "report.html").read_text().count("needs a gold model") > 0
    assert "did not answer word for word even before" in capsys.readouterr().out


def test_a_gold_model_fills_the_gaps(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = run.main(
        [*own(model, data, out), "--gold", str(model), "--evaluations", "6", "--lrs", "1e-3"]
    )
    assert code == 0
    card = json.loads((out / "model" / "summary.json").read_text())["after"]
    assert 0 <= card["ks_pvalue"] <= 1


@pytest.mark.parametrize("missing", ["forget", "retain"])
def test_a_missing_file(capsys, model: Path, data: Path, missing: str) -> None:
    (data / f"{missing}.jsonl").unlink()
    assert f"{missing}.jsonl" in refused(capsys, "--model", model, "--data", data)


def test_a_missing_folder(capsys, model: Path, tmp_path: Path) -> None:
    assert "nowhere" in refused(capsys, "--model", model, "--data", tmp_path / "nowhere")


@pytest.mark.parametrize("split", SPLITS)
def test_an_empty_split(capsys, model: Path, data: Path, split: str) -> None:
    (data / f"{split}.jsonl").write_text("\n\n")
    assert f"{split}.jsonl" in refused(capsys, "--model", model, "--data", data)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"question": "a?"}', "`answer` is missing"),
        ('{"prompt": "a?", "answer": "b"}', "unknown field `prompt`"),
        ('{"question": "a?", "answer": ""}', "`answer` must be"),
        ('{"question": 3, "answer": "b"}', "`question` must be"),
        ('{"question": "a?", "answer": "b", "wrong_answers": "c"}', "`wrong_answers` must be"),
        ('{"question": "a?", "answer": "b", "wrong_answers": [""]}', "`wrong_answers` must be"),
        ('["a?", "b"]', "JSON object"),
        ("{question", "not JSON"),
    ],
)
def test_a_wrong_field(capsys, model: Path, data: Path, line: str, named: str) -> None:
    with (data / "forget.jsonl").open("a") as file:
        file.write(line + "\n")
    error = refused(capsys, "--model", model, "--data", data)
    assert named in error
    assert "forget.jsonl, line 13" in error


def test_text_that_is_not_utf8(capsys, model: Path, data: Path) -> None:
    (data / "retain.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refused(capsys, "--model", model, "--data", data)


def test_a_model_that_is_not_there(capsys, data: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "no_model"
    assert f"no folder {nowhere}" in refused(capsys, "--model", nowhere, "--data", data)
    assert "`--model` no-such-name" in refused(capsys, "--model", "no-such-name", "--data", data)


def test_a_model_without_a_tokenizer(capsys, model: Path, data: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    assert "tokenizer.save_pretrained" in refused(capsys, "--model", bare, "--data", data)


def test_a_preset_with_a_model(capsys, model: Path, data: Path) -> None:
    error = refused(capsys, "--model", model, "--data", data, "--preset", "demo")
    assert "`--preset` runs the synthetic world" in error


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "BertModel", None])
def test_a_bert(capsys, model: Path, data: Path, tmp_path: Path, architecture) -> None:
    from transformers import BertConfig, BertLMHeadModel

    folder = tmp_path / "bert"
    config = BertConfig(
        vocab_size=400,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertLMHeadModel(config).save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    saved["architectures"] = architecture and [architecture]
    (folder / "config.json").write_text(json.dumps(saved))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, folder / name)
    error = refused(capsys, "--model", folder, "--data", data)
    assert "causal" in error


def test_a_folder_without_tokenizer(capsys, model: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    load_trained(model)[0].save_pretrained(folder)
    assert "tokenizer" in refused(capsys, "--model", folder, "--data", data)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--data", "somewhere"),
        ("--model", "somewhere"),
        ("--gold", "somewhere"),
        ("--methods", "MAGIC"),
        ("--evaluations", "7"),
        ("--lrs", "2.0"),
        ("--forget-target", "1.5"),
        ("--workers", "-1"),
    ],
)
def test_options_that_do_not_fit(capsys, arguments: tuple[str, ...]) -> None:
    assert arguments[0] in refused(capsys, *arguments)


def test_validation_is_kept_apart_from_training(data: Path) -> None:
    world = read_world(data)
    train, validation = ({e.question for e in world[s]} for s in ("retain", "retain_validation"))
    assert validation
    assert not train & validation
    assert len(train | validation) == 12
    assert read_world(data) == world


def test_a_tiny_retain_set_keeps_everything_for_training(tmp_path: Path) -> None:
    folder = write_data(tmp_path, TINY.world.build(), ("forget", "retain"), limit=1)
    world = read_world(folder)
    assert len(world["retain"]) == 1
    assert not world["retain_validation"]
    with pytest.raises(UserError):
        read_world(tmp_path / "nowhere")
