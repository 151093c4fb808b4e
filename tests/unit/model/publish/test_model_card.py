"""Model cards: what they say, code that runs, and whose they are."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.repocard import metadata_load
from typer.testing import CliRunner

from llama2vec.cli import app
from llama2vec.config import PROMPT_RECIPES, EncoderSettings, ModelSettings
from llama2vec.errors import ContractError, DataError, OutputExistsError
from llama2vec.model.encoder import Encoder
from llama2vec.model.publish.model_card import CARD_MARK, write_model_card
from llama2vec.model.publish.origin import Origin, origin_of

QUERY = "How do bees find their way home?"
PASSAGES = ["Bees find their way by the sun.", "The bridge was opened in 1932."]
FLOAT32 = ModelSettings(dtype="float32", device="cpu")
MANIFEST: dict[str, Any] = {
    "stage": "adapt",
    "settings": {
        "model": {"name": "smollm2-135m", "lora": {"rank": 16}},
        "text": {"corpus": "/home/someone/secret/news.jsonl", "language": "de"},
        "optimizer": {"batch_size": 16, "learning_rate": 0.001},
    },
    "inputs": {"corpus": "5adb8dec48cdddfb"},
    "results": {"steps": 32, "seconds": 270.8, "losses": {"loss_self": 7.10406}},
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "code": "120c79b25c58",
}


@pytest.fixture
def save(llama_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a tiny encoder as ``tiny``."""

    def make(recipe: str = "paper", **settings: Any) -> Path:
        chosen = EncoderSettings.model_validate({"query_prompt": "next", **settings})
        encoder = Encoder.load(llama_folder, settings=FLOAT32, prompts=PROMPT_RECIPES[recipe], encoder=chosen)
        return encoder.save(tmp_path / "tiny")

    return make


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("paper", {"layers": 2}),
        ("released", {}),
        ("released", {"pooling": "mean", "layers": 2}),
        ("paper", {"query_prompt": "self"}),
    ],
)
def test_the_code_on_the_card_runs_and_gives_the_encoders_vectors(
    save: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    settings: dict[str, Any],
) -> None:
    folder = save(recipe, **settings)
    encoder = Encoder.load(folder, settings=FLOAT32)
    query, passages = encoder.encode_queries([QUERY])[0], encoder.encode_passages(PASSAGES)
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", card_of(folder), flags=re.DOTALL)):
        found: dict[str, Any] = {}
        exec(block, found)
        if number < 2:
            np.testing.assert_allclose(found["queries"][0], query, atol=1e-5, rtol=0)
            np.testing.assert_allclose(found["passages"], passages, atol=1e-5, rtol=0)
        else:
            assert found["query"].dtype == torch.float32
            np.testing.assert_allclose(found["query"], query, atol=1e-5, rtol=0)
            np.testing.assert_allclose(found["passage"], passages[0], atol=1e-5, rtol=0)
    assert number == 2


def test_the_hub_reads_library_task_base_license_and_language(save: Callable[..., Path]) -> None:
    folder = save()
    (folder / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    assert write_model_card(folder)
    facts = metadata_load(folder / "README.md")
    assert facts is not None
    assert facts["library_name"] == "sentence-transformers"
    assert facts["pipeline_tag"] == "sentence-similarity"
    assert facts["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert facts["license"] == "apache-2.0"
    assert facts["language"] == ["de"]
    assert {"llama2vec", "sentence-transformers"} <= set(facts["tags"])


def test_the_card_tells_contract_training_and_limits_and_no_folder_of_this_machine(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    folder = save("released", passage_max_tokens=77)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    write_model_card(folder)
    card = card_of(folder)
    for said in (
        "# tiny", "arXiv 2312.15503", "unsupervised adaptation", Encoder.load(folder).contract_hash,
        "| prompt recipe | released |", "then 8 slot tokens", "passages at 77.", "| data | `news.jsonl`",
        "fingerprint `5adb8dec48cd`", "| loss self | 7.104 |", "LoRA of rank 16, merged", "Training used no labels",
        "| tokens of a passage | at most 77", "@inproceedings{li2024llama2vec",
    ):  # fmt: skip
        assert said in card
    for hidden in ("/home/someone", "secret", str(tmp_path)):
        assert hidden not in card


def test_scores_of_both_kinds_of_report_are_shown(save: Callable[..., Path]) -> None:
    folder = save()
    several = {
        "task": "cranfield/test",
        "systems": {"bm25": {"nDCG@10": 0.36}, "tiny": {"nDCG@10": 0.3}},
        "intervals": {"bm25": {"nDCG@10": [0.33, 0.39]}},
    }
    single = {"task": "sts|b", "system": "tiny", "metrics": {"rho": 0.8}, "intervals": {"rho": [0.7, 0.9]}}
    write_model_card(folder, scores=[several, single])
    card = card_of(folder)
    assert "| cranfield/test | bm25 | nDCG@10 | 0.360 [0.330, 0.390] |" in card
    assert "| cranfield/test | tiny | nDCG@10 | 0.300 |" in card
    assert "| sts\\|b | tiny | rho | 0.800 [0.700, 0.900] |" in card


def test_a_card_that_somebody_wrote_is_never_written_over(save: Callable[..., Path], tmp_path: Path) -> None:
    folder = save()
    own = card_of(folder).replace(CARD_MARK, "").replace("# tiny", "# Mine")
    (folder / "README.md").write_text(own, encoding="utf-8")
    encoder = Encoder.load(folder, settings=FLOAT32)
    encoder.save(folder, overwrite=True)
    assert card_of(folder) == own
    assert not write_model_card(folder)
    assert card_of(folder) == own
    # A card before there was a model is somebody's, too.
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "README.md").write_text("Notes.", encoding="utf-8")
    encoder.save(tmp_path / "new")
    assert card_of(tmp_path / "new") == "Notes."


def test_a_card_of_ours_is_renewed_with_the_model(save: Callable[..., Path]) -> None:
    folder = save()
    write_model_card(folder, name="me/other")
    assert 'Encoder.load("me/other"' in card_of(folder)
    Encoder.load(folder, settings=FLOAT32).save(folder, overwrite=True)
    assert 'Encoder.load("tiny"' in card_of(folder)


def test_a_name_with_quotes_stays_one_string_of_the_code(save: Callable[..., Path]) -> None:
    folder = save()
    write_model_card(folder, name='x"; import os; "\n## Use')
    blocks = re.findall(r"```python\n(.*?)```", card_of(folder), flags=re.DOTALL)
    assert len(blocks) == 3
    assert all("import os" in block and "\nimport os" not in block for block in blocks)
    for block in blocks:
        compile(block, "card", "exec")


def test_origins_are_followed_through_the_stages_also_after_a_run_was_moved(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    adapted = save().rename(run / "adapted")
    (adapted / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    tuned = Encoder.load(adapted, settings=FLOAT32).save(run / "finetuned")
    second = {**MANIFEST, "stage": "finetune", "settings": {"model": {"name": "gone/run/adapted"}}}
    (tuned / "manifest.json").write_text(json.dumps(second), encoding="utf-8")
    origin = origin_of(str(tuned))
    assert (origin.base, origin.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert [manifest["stage"] for manifest in origin.manifests] == ["adapt", "finetune"]
    write_model_card(tuned)
    assert "unsupervised adaptation of Llama2Vec and contrastive fine-tuning" in card_of(tuned)
    assert "Training used no labels" not in card_of(tuned)
    # Saved once more, without a manifest of its own, the base is still known.
    again = Encoder.load(tuned, settings=FLOAT32).save(tmp_path / "again")
    assert origin_of(str(again)).base == origin.base


def test_the_license_of_a_local_base_is_read_from_its_card(save: Callable[..., Path], llama_folder: Path) -> None:
    card = llama_folder / "README.md"
    card.write_text("---\nlicense: mit\n---\n# Base\n", encoding="utf-8")
    try:
        assert origin_of(str(llama_folder)) == Origin(llama_folder.name, "mit")
    finally:
        card.unlink()
    assert origin_of(str(llama_folder)) == Origin(llama_folder.name)
    assert origin_of("someone/model") == Origin("someone/model")
    folder = save()
    assert "license is not stated here" in card_of(folder)
    assert "base_model" not in (metadata_load(folder / "README.md") or {})


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": {}}'])
def test_a_manifest_with_gaps_does_not_keep_a_card_from_being_written(save: Callable[..., Path], content: str) -> None:
    folder = save()
    (folder / "manifest.json").write_text(content, encoding="utf-8")
    assert write_model_card(folder)


def test_a_folder_without_a_contract_gets_no_card(llama_folder: Path) -> None:
    with pytest.raises(ContractError, match=r"llama2vec\.json is missing or unreadable"):
        write_model_card(llama_folder)
    assert not (llama_folder / "README.md").exists()


# --------------------------------------------------------------------------------------------------------- command line


def test_the_command_writes_scores_and_name(save: Callable[..., Path], tmp_path: Path) -> None:
    folder = save()
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"task": "t", "systems": {"tiny": {"AP": 0.25}}}), encoding="utf-8")
    done = CliRunner().invoke(app, ["card", str(folder), "--scores", str(report), "--name", "me/tiny"])
    assert done.exit_code == 0, done.output
    assert f"Wrote {folder / 'README.md'} with 1 reports" in done.output
    assert "| t | tiny | AP | 0.250 |" in card_of(folder)
    assert "# tiny" in card_of(folder)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "cannot be read as a report"), ('{"a": 1}', "holds no scores"), ("[]", "no scores")]
)
def test_a_file_that_is_no_report_is_refused(
    save: Callable[..., Path], tmp_path: Path, content: str, message: str
) -> None:
    folder = save()
    before = card_of(folder)
    (tmp_path / "report.json").write_text(content, encoding="utf-8")
    done = CliRunner().invoke(app, ["card", str(folder), "--scores", str(tmp_path / "report.json")])
    assert isinstance(done.exception, DataError)
    assert message in str(done.exception)
    assert card_of(folder) == before


def test_the_command_leaves_somebody_elses_card(save: Callable[..., Path]) -> None:
    folder = save()
    (folder / "README.md").write_text("# Mine\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["card", str(folder)])
    assert isinstance(done.exception, OutputExistsError)
    assert card_of(folder) == "# Mine\n"
