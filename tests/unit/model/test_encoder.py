"""The encoder: the same vector whatever stands around a text, and the same after save and load."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, ModelSettings, PromptSettings
from llama2vec.errors import ContractError, OutputExistsError
from llama2vec.model.backbone import Backbone, load_backbone
from llama2vec.model.contract import CONTRACT_FILE
from llama2vec.model.encoder import Encoder
from llama2vec.model.source import ModelSource
from llama2vec.records import Passage, Query

FLOAT32 = ModelSettings(dtype="float32", device="cpu")
RELEASED = PROMPT_RECIPES["released"]


def encoder_for(
    folder: Path, prompts: PromptSettings | None = None, settings: EncoderSettings | None = None
) -> Encoder:
    return Encoder.load(folder, settings=FLOAT32, prompts=prompts, encoder=settings)


@pytest.fixture
def texts(sentences: list[str]) -> list[str]:
    return [*sentences[:9], "River", "", " ".join(sentences[10:14]), sentences[0][:17]]


@pytest.fixture
def saved(llama_folder: Path, tmp_path: Path) -> Path:
    return encoder_for(llama_folder).save(tmp_path / "saved")


# ------------------------------------------------------------------------------------------- padding, order, batches


def stock_loop(encoder: Encoder, texts: list[str], prompt: str, max_tokens: int) -> np.ndarray:
    """One unpadded text at a time through the stock model, by its hidden_states."""
    tokenizer, model, ids = encoder.backbone.tokenizer, encoder.backbone.model, encoder.contract.ids
    rows = []
    for text in texts:
        body = tokenizer(text, add_special_tokens=False)["input_ids"][:max_tokens]
        row = torch.tensor([[*ids.prefix, *body, *ids.suffixes[prompt]]])  # type: ignore[index]
        with torch.no_grad():
            hidden = model(input_ids=row, output_hidden_states=True).hidden_states[-1][0]
        pooled = hidden[-ids.slots :].double().mean(dim=0)
        rows.append((pooled / pooled.norm()).numpy())
    return np.array(rows)


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_vectors_equal_one_unpadded_text_at_a_time_through_the_stock_model(
    save_model: Callable[..., Path], tmp_path: Path, architecture: str, texts: list[str], recipe: str
) -> None:
    encoder = encoder_for(
        save_model(tmp_path, architecture), PROMPT_RECIPES[recipe], EncoderSettings(query_prompt="next")
    )
    np.testing.assert_allclose(encoder.encode_passages(texts), stock_loop(encoder, texts, "self", 512), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_queries(texts), stock_loop(encoder, texts, "next", 128), atol=1e-5)


@pytest.mark.parametrize("pooling", ["slots", "mean"])
def test_vectors_do_not_depend_on_order_batch_size_or_padding(
    llama_folder: Path, texts: list[str], pooling: str
) -> None:
    encoder = encoder_for(llama_folder, None, EncoderSettings(pooling=pooling))  # type: ignore[arg-type]
    expected = encoder.encode_passages(texts)
    order = list(range(len(texts)))
    random.Random(0).shuffle(order)
    for batch_tokens in (1, 100, 100_000):
        encoder.batch_tokens = batch_tokens
        np.testing.assert_allclose(encoder.encode_passages(texts), expected, atol=1e-5)
        np.testing.assert_allclose(encoder.encode_passages([texts[row] for row in order]), expected[order], atol=1e-5)
    for row, text in enumerate(texts):
        np.testing.assert_allclose(encoder.encode_passages([text])[0], expected[row], atol=1e-5)


def test_vectors_do_not_depend_on_what_fills_the_padding(
    llama_folder: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_for(llama_folder)
    expected = encoder.encode_passages(texts)
    monkeypatch.setattr(Encoder, "pad_id", property(lambda _self: 77))
    np.testing.assert_array_equal(encoder.encode_passages(texts), expected)


def test_windows_of_texts_are_joined_without_a_seam(
    llama_folder: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_for(llama_folder)
    expected = encoder.encode_passages(sentences)
    monkeypatch.setattr("llama2vec.model.encoder._WINDOW", 7)
    np.testing.assert_allclose(encoder.encode_passages(sentences), expected, atol=1e-5)


def test_the_sdpa_and_eager_kernels_agree(llama_folder: Path, texts: list[str]) -> None:
    one, other = (
        Encoder.load(llama_folder, settings=FLOAT32.model_copy(update={"attention": kernel}))
        for kernel in ("sdpa", "eager")
    )
    np.testing.assert_allclose(one.encode_passages(texts), other.encode_passages(texts), atol=1e-5)


def test_vectors_are_float32_and_of_unit_length(llama_folder: Path, texts: list[str]) -> None:
    for dtype in ("float32", "bfloat16"):
        encoder = Encoder.load(llama_folder, settings=ModelSettings(dtype=dtype, device="cpu"))  # type: ignore[arg-type]
        vectors = encoder.encode_queries(texts)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(texts), encoder.dimension) == (13, 32)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_texts_give_an_empty_matrix(llama_folder: Path) -> None:
    assert encoder_for(llama_folder).encode_queries([]).shape == (0, 32)


def test_different_texts_and_prompts_get_different_vectors(llama_folder: Path, sentences: list[str]) -> None:
    encoder = encoder_for(llama_folder, None, EncoderSettings(query_prompt="next"))
    vectors = encoder.encode_passages(sentences[:8])
    assert float((vectors @ vectors.T - np.eye(8)).max()) < 1 - 1e-4
    assert float((vectors * encoder.encode_queries(sentences[:8])).sum(axis=1).max()) < 1 - 1e-5


def test_records_and_plain_texts_give_the_same_vectors(llama_folder: Path) -> None:
    encoder = encoder_for(llama_folder)
    np.testing.assert_array_equal(
        encoder.encode_passages([Passage("p", "stone bridge", "River")]),
        encoder.encode_passages(["River stone bridge"]),
    )
    np.testing.assert_array_equal(encoder.encode_queries([Query("q", "stone")]), encoder.encode_queries(["stone"]))


# ----------------------------------------------------------------------------------------------- lengths and pooling


def test_an_empty_text_gets_the_vector_of_the_prompt_alone(llama_folder: Path) -> None:
    encoder = encoder_for(llama_folder)
    np.testing.assert_allclose(encoder.encode_passages([""]), stock_loop(encoder, [""], "self", 9), atol=1e-5)


def test_an_empty_text_without_bos_and_prompt_still_gets_a_unit_vector(
    make_model: Callable[..., Any], make_tokenizer: Callable[..., Any]
) -> None:
    backbone = Backbone(make_model("llama"), make_tokenizer(bos=False), ModelSource("tiny", "tiny"))
    encoder = Encoder.from_backbone(backbone, None, EncoderSettings(pooling="mean"))
    vectors = encoder.encode_passages(["", "river"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_text_longer_than_its_limit_is_cut_and_keeps_its_slots(llama_folder: Path, sentences: list[str]) -> None:
    encoder = encoder_for(llama_folder, None, EncoderSettings(passage_max_tokens=6))
    long = " ".join(sentences)
    np.testing.assert_allclose(encoder.encode_passages([long]), stock_loop(encoder, [long], "self", 6), atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_limits_beyond_the_context_are_cut_to_what_the_model_reads(
    save_model: Callable[..., Path], tmp_path: Path, kind: str, sentences: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"n_positions": 64} if kind == "gpt2" else {"max_position_embeddings": 64}
    encoder = encoder_for(save_model(tmp_path, kind, **sizes))
    ids, limits = encoder.contract.ids, encoder.contract.encoder
    longest = max(len(suffix) for suffix in ids.suffixes.values())
    assert limits.passage_max_tokens == limits.query_max_tokens == 64 - len(ids.prefix) - longest
    assert "passage_max_tokens is cut from 512" in caplog.text
    long = " ".join(sentences)
    expected = stock_loop(encoder, [long], "self", limits.passage_max_tokens)
    np.testing.assert_allclose(encoder.encode_passages([long]), expected, atol=1e-5)


def test_a_context_without_room_for_the_prompts_is_refused(save_model: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no room beside the prompts"):
        encoder_for(save_model(tmp_path, "llama", max_position_embeddings=8))


def test_every_pooling_in_one_pass_equals_each_pooling_alone(llama_folder: Path, texts: list[str]) -> None:
    slots = encoder_for(llama_folder)
    mean = encoder_for(llama_folder, None, EncoderSettings(pooling="mean"))
    both = slots.encode_poolings(texts, "self", 512)
    np.testing.assert_allclose(both["slots"], slots.encode_passages(texts), atol=1e-5)
    np.testing.assert_allclose(both["mean"], mean.encode_passages(texts), atol=1e-5)


def test_mean_pooling_is_the_mean_over_the_texts_own_tokens(llama_folder: Path, sentences: list[str]) -> None:
    encoder = encoder_for(llama_folder, None, EncoderSettings(pooling="mean"))
    tokenizer, model = encoder.backbone.tokenizer, encoder.backbone.model
    for text in sentences[:3]:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, 1:]
        expected = torch.nn.functional.normalize(hidden.mean(dim=0), dim=0)
        np.testing.assert_allclose(encoder.encode_passages([text])[0], expected.numpy(), atol=1e-5)


# ------------------------------------------------------------------------------------------------- the authors' way


def test_released_vectors_equal_those_of_the_authors_readme(llama_folder: Path, texts: list[str]) -> None:
    settings = EncoderSettings(query_prompt="next", query_max_tokens=100, passage_max_tokens=100)
    encoder = encoder_for(llama_folder, RELEASED, settings)
    model, tokenizer = encoder.backbone.model, encoder.backbone.tokenizer
    slots = "".join(f"<s{number}>" for number in range(1, 9)), "".join(f"<s{number}>" for number in range(9, 17))
    suffixes = {
        "self": f'", summarize the above passage within eight words: {slots[0]}',
        "next": f'", predict the following passage within eight words: {slots[1]}',
    }

    def authors(prompt: str) -> np.ndarray:
        prefix_ids = tokenizer('"')["input_ids"]
        suffix_ids = tokenizer(suffixes[prompt])["input_ids"][1:]
        rows = []
        for text in texts:
            ids = tokenizer(text, max_length=100, truncation=True, add_special_tokens=False)["input_ids"]
            rows.append(prefix_ids + ids + suffix_ids)
        width = -(-max(map(len, rows)) // 8) * 8
        padded = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.no_grad():
            hidden = model(input_ids=padded, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
        # As they wrote it: on the left side of the padding every row ends in its eight slots.
        return torch.nn.functional.normalize(hidden[:, -8:, :].mean(dim=1), dim=-1).numpy()

    np.testing.assert_allclose(encoder.encode_queries(texts), authors("next"), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_passages(texts), authors("self"), atol=1e-5)


# ----------------------------------------------------------------------------------------------------- save and load


@pytest.mark.parametrize("recipe", ["paper", "released"])
@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2"])
def test_save_and_load_give_bit_identical_vectors(
    save_model: Callable[..., Path], tmp_path: Path, kind: str, recipe: str, texts: list[str]
) -> None:
    settings = EncoderSettings(query_prompt="next", passage_max_tokens=40)
    encoder = encoder_for(save_model(tmp_path / "base", kind), PROMPT_RECIPES[recipe], settings)
    passages, queries = encoder.encode_passages(texts), encoder.encode_queries(texts)
    encoder.save(tmp_path / "saved")
    again = encoder_for(tmp_path / "saved")
    assert again.contract == encoder.contract
    assert again.contract_hash == encoder.contract_hash
    np.testing.assert_array_equal(again.encode_passages(texts), passages)
    np.testing.assert_array_equal(again.encode_queries(texts), queries)


def test_bfloat16_weights_survive_save_and_load(llama_folder: Path, tmp_path: Path, texts: list[str]) -> None:
    bfloat16 = ModelSettings(dtype="bfloat16", device="cpu")
    encoder = Encoder.load(llama_folder, settings=bfloat16)
    vectors = encoder.encode_passages(texts)
    encoder.save(tmp_path)
    assert json.loads((tmp_path / CONTRACT_FILE).read_text(encoding="utf-8"))["dtype"] == "bfloat16"
    np.testing.assert_array_equal(Encoder.load(tmp_path, settings=bfloat16).encode_passages(texts), vectors)


def test_a_saved_encoder_is_an_ordinary_transformers_folder_that_can_move(
    saved: Path, tmp_path: Path, texts: list[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expected = encoder_for(saved).encode_passages(texts)
    moved = tmp_path / "moved"
    saved.rename(moved)
    np.testing.assert_array_equal(encoder_for(moved).encode_passages(texts), expected)
    assert AutoModelForCausalLM.from_pretrained(moved).config.model_type == "llama"
    assert AutoTokenizer.from_pretrained(moved).eos_token_id == 2


def test_a_contract_hash_tells_prompts_lengths_and_weights_apart(llama_folder: Path, tied_llama_folder: Path) -> None:
    hashes = {
        encoder_for(llama_folder).contract_hash,
        encoder_for(llama_folder, RELEASED).contract_hash,
        encoder_for(llama_folder, None, EncoderSettings(passage_max_tokens=9)).contract_hash,
        encoder_for(tied_llama_folder).contract_hash,
    }
    assert len(hashes) == 4
    assert encoder_for(llama_folder).contract_hash in hashes


def edit_contract(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / CONTRACT_FILE
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["prompts"].update(self_prompt=" other: "),
        lambda data: data["encoder"].update(passage_max_tokens=3),
        lambda data: data["token_ids"]["suffixes"]["self"].pop(),
        lambda data: data.update(dtype="bfloat16"),
        lambda data: data.update(hash="0" * 64),
        lambda data: data.update(extra=1),
    ],
)
def test_a_contract_edited_by_hand_is_refused(saved: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit_contract(saved, change)
    with pytest.raises(ContractError, match="does not match its hash"):
        encoder_for(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_contract_that_is_no_contract_is_refused(saved: Path, content: str) -> None:
    (saved / CONTRACT_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ContractError, match="cannot be read as an encoding contract"):
        encoder_for(saved)


def test_a_contract_of_another_format_and_one_with_gaps_are_refused(saved: Path) -> None:
    from llama2vec.manifest import digest

    def rehash(data: dict[str, Any]) -> None:
        data.pop("hash", None)
        data["hash"] = digest(data)

    edit_contract(saved, lambda data: (data.update(format=3), rehash(data)))
    with pytest.raises(ContractError, match="contract format 3 is neither 1 nor 2"):
        encoder_for(saved)
    edit_contract(saved, lambda data: (data.update(format=1), data.pop("encoder"), rehash(data)))
    with pytest.raises(ContractError, match="incomplete contract"):
        encoder_for(saved)


def test_swapped_weights_are_refused(saved: Path, save_model: Callable[..., Path], tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", "llama", seed=5)
    shutil.copy(other / "model.safetensors", saved / "model.safetensors")
    with pytest.raises(ContractError, match="the weights are not those"):
        encoder_for(saved)


def test_a_changed_tokenizer_is_refused(saved: Path, make_tokenizer: Callable[..., Any]) -> None:
    make_tokenizer(vocabulary=100).save_pretrained(saved)
    with pytest.raises(ContractError, match="other prompt ids"):
        encoder_for(saved)


def test_prompts_and_lengths_cannot_be_changed_at_load(saved: Path) -> None:
    with pytest.raises(ContractError, match="carries its own contract"):
        encoder_for(saved, RELEASED)
    with pytest.raises(ContractError, match="carries its own contract"):
        encoder_for(saved, None, EncoderSettings(pooling="mean"))


def test_saving_refuses_to_overwrite_and_touches_nothing(saved: Path) -> None:
    encoder = encoder_for(saved)
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(OutputExistsError, match="--overwrite"):
        encoder.save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_saving_over_itself_keeps_foreign_files_and_vectors(saved: Path, texts: list[str]) -> None:
    encoder = encoder_for(saved)
    expected = encoder.encode_passages(texts)
    (saved / "notes.txt").write_text("mine", encoding="utf-8")
    encoder.save(saved, overwrite=True)
    assert (saved / "notes.txt").read_text(encoding="utf-8") == "mine"
    np.testing.assert_array_equal(encoder_for(saved).encode_passages(texts), expected)


@pytest.mark.parametrize("where", ["model", "tokenizer", "contract"])
def test_a_save_that_fails_leaves_nothing_half_written(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    encoder = encoder_for(llama_folder)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    if where == "contract":
        monkeypatch.setattr("llama2vec.model.contract.write_json", fail)
    else:
        monkeypatch.setattr(getattr(encoder.backbone, where), "save_pretrained", fail)
    with pytest.raises(OSError, match="No space left"):
        encoder.save(tmp_path / "saved")
    assert list((tmp_path / "saved").iterdir()) == []
    monkeypatch.undo()
    encoder.save(tmp_path / "saved")
    encoder_for(tmp_path / "saved")


def test_a_failed_save_over_an_old_encoder_leaves_the_old_one(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_for(saved)
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(encoder.backbone.tokenizer, "save_pretrained", fail)
    with pytest.raises(KeyboardInterrupt):
        encoder.save(saved, overwrite=True)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_push_to_hub_uploads_what_save_writes(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], tmp_path: Path
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class StubApi:
        def __init__(self, token: str | None = None) -> None:
            calls.append(("token", {"token": token}))

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            calls.append(("create", {"repo_id": repo_id, **options}))
            return type("Url", (), {"repo_id": repo_id})

        def file_exists(self, repo_id: str, name: str) -> bool:
            return False

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str, **_: Any) -> str:
            calls.append(("upload", {"repo_id": repo_id, "message": commit_message}))
            shutil.copytree(folder_path, tmp_path / "uploaded")
            return "https://hub/commit/1"

    monkeypatch.setattr("llama2vec.model.publish.hub.HfApi", StubApi)
    encoder = encoder_for(llama_folder)
    expected = encoder.encode_passages(texts)
    assert encoder.push_to_hub("me/tiny", private=True, token="t") == "https://hub/commit/1"
    assert [name for name, _ in calls] == ["token", "create", "upload"]
    assert calls[1][1] == {"repo_id": "me/tiny", "private": True, "exist_ok": True}
    np.testing.assert_array_equal(encoder_for(tmp_path / "uploaded").encode_passages(texts), expected)
    # The encoder still works, and can be saved, after the upload's folder is gone.
    np.testing.assert_array_equal(encoder.encode_passages(texts), expected)
    encoder.save(tmp_path / "later")
    assert load_backbone(FLOAT32.model_copy(update={"name": str(tmp_path / "later")})).source.location
