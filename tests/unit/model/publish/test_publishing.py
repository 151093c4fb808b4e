"""Files that open a saved encoder elsewhere; model cards: what they say, code that runs, and whose they are."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cards import MANIFEST, card_of
from encoders import FLOAT32, encoder_for
from huggingface_hub.repocard import metadata_load
from transformers import AutoModel, AutoTokenizer

from llama2vec.config import EncoderSettings, PromptSettings
from llama2vec.errors import ContractError, ModelError
from llama2vec.model.encoder import Encoder
from llama2vec.model.golden import GOLDEN_TEXTS
from llama2vec.model.publish.portable_files import MODULE_FILE
from llama2vec.model.publish.publishing import (
    CARD_MARK,
    add_public_files,
    write_model_card,
)
from llama2vec.records import Report

QUERY = "How do bees find their way home?"
PASSAGES = ["Bees find their way by the sun.", "The bridge was opened in 1932."]


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("paper", {"layers": 2}),
        ("released", {}),
        ("released", {"pooling": "mean", "layers": 2}),
        ("paper", {"query_prompt": "self"}),
        ("repllama", {}),
        ("one-word", {}),
        ("paper", {"servable": True}),
        ("paper-v2", {"servable": True, "passage_max_tokens": 40}),
        ("one-word", {"servable": True}),
    ],
)
def test_the_code_on_the_card_runs_and_gives_the_encoders_vectors(
    save: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    settings: dict[str, Any],
) -> None:
    folder = save(recipe, **settings)
    encoder = Encoder.load(folder, settings=FLOAT32)
    query, passages = encoder.encode_queries([QUERY])[0], encoder.encode_passages(PASSAGES)
    monkeypatch.chdir(folder.parent)
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


def test_scores_are_shown_with_their_intervals(save: Callable[..., Path]) -> None:
    folder = save()
    retrieval = Report("cranfield/test", "bm25", {"nDCG@10": 0.36, "AP": 0.3}, {"nDCG@10": (0.33, 0.39)})
    similarity = Report("sts|b", "tiny", {"rho": 0.8}, {"rho": (0.7, 0.9)})
    write_model_card(folder, scores=[retrieval, similarity])
    card = card_of(folder)
    assert "| cranfield/test | bm25 | nDCG@10 | 0.360 [0.330, 0.390] |" in card
    assert "| cranfield/test | bm25 | AP | 0.300 |" in card
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
    for take in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")):
        (folder / "README.md").unlink()
        take(folder / "README.md")
        assert not write_model_card(folder)
        if (folder / "README.md").is_dir():
            (folder / "README.md").rmdir()
            (folder / "README.md").touch()


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


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": {}}'])
def test_a_manifest_with_gaps_does_not_keep_a_card_from_being_written(save: Callable[..., Path], content: str) -> None:
    folder = save()
    (folder / "manifest.json").write_text(content, encoding="utf-8")
    assert write_model_card(folder)


def test_a_card_for_a_folder_with_code_of_its_own_asks_nobody_to_run_it(save: Callable[..., Path]) -> None:
    folder = save()
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match="needs code from the model's folder, and llama2vec never runs such code"):
        write_model_card(folder)


def test_a_folder_without_a_contract_gets_no_card(llama_folder: Path) -> None:
    with pytest.raises(ContractError, match=r"has no llama2vec\.json"):
        write_model_card(llama_folder)
    assert not (llama_folder / "README.md").exists()


def test_a_card_with_its_own_author_at_the_destination_stays(save: Callable[..., Path], tmp_path: Path) -> None:
    folder, destination = save(), tmp_path / "destination"
    destination.mkdir()
    (folder / "README.md").unlink()
    add_public_files(folder, destination, "base")
    assert "Written by llama2vec" in (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").unlink()
    (destination / "README.md").write_text("# Mine\n", encoding="utf-8")
    add_public_files(folder, destination, "base")
    assert not (folder / "README.md").exists()
    assert (destination / "README.md").read_text(encoding="utf-8") == "# Mine\n"


def test_a_servable_encoder_opens_in_plain_sentence_transformers_and_transformers(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = save("paper", servable=True, passage_max_tokens=60)
    assert not (folder / MODULE_FILE).exists()
    encoder = Encoder.load(folder, settings=FLOAT32)
    texts = [*GOLDEN_TEXTS, "stone \n"]
    expected = encoder.encode_passages(texts)
    model = SentenceTransformer(str(folder), device="cpu")
    for given in (model.encode(texts), model.encode_query(texts), model.encode_document(texts, batch_size=2)):
        np.testing.assert_allclose(given, expected, atol=1e-5)
    tokenizer, plain = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    ids = tokenizer(PASSAGES[0], return_tensors="pt")["input_ids"]
    state = plain(input_ids=ids).last_hidden_state[0, -1].detach().numpy()
    np.testing.assert_allclose(state / np.linalg.norm(state), encoder.encode_passages(PASSAGES[0]), atol=1e-5)


def test_mean_pooling_is_servable_where_nothing_stands_before_a_text(llama_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    prompts = PromptSettings(begin="none")
    encoder = encoder_for(llama_folder, prompts, EncoderSettings(servable=True, pooling="mean", passage_max_tokens=60))
    encoder.save(tmp_path / "mean")
    given = SentenceTransformer(str(tmp_path / "mean"), device="cpu").encode(PASSAGES)
    np.testing.assert_allclose(given, encoder.encode_passages(PASSAGES), atol=1e-5)
    write_model_card(tmp_path / "mean")
    assert "An empty text has no token to average: leave such texts out" in card_of(tmp_path / "mean")


def test_the_card_names_the_widths_that_were_trained_too(save: Callable[..., Path]) -> None:
    folder = save("paper")
    assert "shortened" not in card_of(folder)
    trained = {**MANIFEST, "stage": "finetune", "settings": {"contrastive": {"dimensions": [32, 16, 8]}}}
    (folder / "manifest.json").write_text(json.dumps(trained), encoding="utf-8")
    write_model_card(folder)
    card = " ".join(card_of(folder).split())
    assert "shortened vectors of 8, 16 numbers: pass `truncate_dim=8` to `SentenceTransformer`" in card
    assert "`normalize_embeddings=True` to `encode`" in card
    assert "An empty text" not in card


def test_files_for_other_programs_of_the_model_that_is_replaced_go(llama_folder: Path, tmp_path: Path) -> None:
    pooling, module = tmp_path / "1_Pooling" / "config.json", tmp_path / MODULE_FILE
    encoder_for(llama_folder, None, EncoderSettings(servable=True)).save(tmp_path)
    assert (pooling.is_file(), module.is_file()) == (True, False)
    encoder_for(llama_folder).save(tmp_path, overwrite=True)
    assert (pooling.is_file(), module.is_file()) == (False, True)
    encoder_for(llama_folder, None, EncoderSettings(servable=True)).save(tmp_path, overwrite=True)
    assert (pooling.is_file(), module.is_file()) == (True, False)


def test_the_card_says_which_programs_open_it(save: Callable[..., Path]) -> None:
    assert "| vLLM | no: its vectors are the mean of 2 layers |" in card_of(save("paper", layers=2))


def test_the_card_of_a_servable_encoder_needs_no_trust(save: Callable[..., Path]) -> None:
    card = card_of(save("paper", servable=True))
    assert "| vLLM | as it is |" in card
    assert "| ONNX Runtime | after `llama2vec export` |" in card
    assert "trust_remote_code" not in card
