"""The encoder: the same vector whatever stands around a text, and the same after save and load."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import FLOAT32, encoder_for
from two_threads import assert_threads_agree

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, ModelSettings
from llama2vec.errors import ConfigError, ContractError, DataError, ModelError, OutputExistsError
from llama2vec.model.backbone import Backbone
from llama2vec.model.contract import CONTRACT_FILE
from llama2vec.model.encoder import Encoder
from llama2vec.model.prompt import prompted_texts
from llama2vec.model.source import ModelSource
from llama2vec.records import Passage, Query

RELEASED = PROMPT_RECIPES["released"]


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
    monkeypatch.setattr("llama2vec.model.encoder._CHUNK", 7)
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
    assert "encoder.passage_max_tokens is cut to" in caplog.text
    long = " ".join(sentences)
    expected = stock_loop(encoder, [long], "self", limits.passage_max_tokens)
    np.testing.assert_allclose(encoder.encode_passages([long]), expected, atol=1e-5)


def test_a_context_without_room_for_the_prompts_is_refused(save_model: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no room for text next to the prompts"):
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


@pytest.mark.parametrize("layers", [1, 2])
def test_a_pickled_encoder_gives_its_vectors_in_another_process(
    llama_folder: Path, tmp_path: Path, sentences: list[str], layers: int
) -> None:
    encoder = encoder_for(llama_folder, settings=EncoderSettings(layers=layers))
    encoder.compile, encoder.batch_tokens = True, 77
    expected = encoder.encode_passages(sentences[:3])
    (tmp_path / "encoder.pickle").write_bytes(pickle.dumps(encoder))
    np.testing.assert_array_equal(encoder.encode_passages(sentences[:3]), expected)
    script = (
        "import pickle, sys, numpy as np\n"
        "encoder = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert (encoder.compile, encoder.batch_tokens) == (True, 77)\n"
        "encoder.compile = False\n"
        "np.save(sys.argv[2], encoder.encode_passages(sys.argv[3:]))\n"
    )
    given = [tmp_path / "encoder.pickle", tmp_path / "found.npy", *sentences[:3]]
    subprocess.run([sys.executable, "-c", script, *map(str, given)], check=True, timeout=300)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-5)


def test_poolings_of_an_unknown_prompt_are_one_line(llama_folder: Path) -> None:
    encoder = encoder_for(llama_folder)
    with pytest.raises(ConfigError, match="unknown prompt 'passage'; choose one of self, next"):
        encoder.encode_poolings(["river"], "passage", 128)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_tokens is 0; give at least 1"):
        encoder.encode_poolings(["river"], "self", 0)
    with pytest.raises(DataError, match="the texts are of type str"):
        encoder.encode_poolings("river", "self", 128)


def test_a_thread_that_embeds_queries_does_not_cut_the_passages_of_another_one(
    llama_folder: Path, sentences: list[str]
) -> None:
    encoder = encoder_for(llama_folder, settings=EncoderSettings(query_max_tokens=4, passage_max_tokens=90))
    long = [" ".join(sentences[:8])]
    assert_threads_agree(lambda: encoder.encode_queries(long), lambda: encoder.encode_passages(long))
    assert encoder.backbone.tokenizer.backend_tokenizer.truncation is None


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


# ------------------------------------------------------------------------------------------------- one text, no texts


def test_a_single_text_gives_one_vector_with_the_bits_of_a_list_of_one(llama_folder: Path) -> None:
    encoder = encoder_for(llama_folder)
    for single, many in (
        (encoder.encode_queries("river"), encoder.encode_queries(["river"])),
        (encoder.encode_queries(Query("q", "river")), encoder.encode_queries(["river"])),
        (encoder.encode_passages("river"), encoder.encode_passages(["river"])),
        (encoder.encode_passages(Passage("p", "river", "Title")), encoder.encode_passages(["Title river"])),
    ):
        assert single.shape == (32,)
        np.testing.assert_array_equal(single, many[0])


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        (None, "text 2 is of type NoneType; give strings, passages or queries"),
        ({"title": "a", "text": "b"}, "text 2 is of type dict"),
        (b"bytes", "text 2 is of type bytes"),
        (float("nan"), "text 2 is of type float"),
        ("ab\ud800", "text 2 holds half of a surrogate pair at character 3"),
        (Passage("p", None), "text 2 is of type NoneType"),  # type: ignore[arg-type]
    ],
)
def test_what_is_not_a_text_is_one_line(llama_folder: Path, item: object, fault: str) -> None:
    encoder = encoder_for(llama_folder)
    for encode in (encoder.encode_queries, encoder.encode_passages):
        with pytest.raises(DataError, match=fault):
            encode(["fine", item])  # type: ignore[list-item]


def test_any_iterable_of_texts_is_read_once(llama_folder: Path) -> None:
    encoder = encoder_for(llama_folder)
    texts = ["river", "castle stone"]
    np.testing.assert_array_equal(encoder.encode_passages(np.array(texts)), encoder.encode_passages(texts))  # type: ignore[arg-type]
    np.testing.assert_array_equal(encoder.encode_passages(iter(texts)), encoder.encode_passages(texts))  # type: ignore[arg-type]


def test_device_dtype_and_batch_tokens_are_taken_at_load(llama_folder: Path) -> None:
    encoder = Encoder.load(llama_folder, device="cpu", dtype="bfloat16", batch_tokens=77)
    assert (encoder.dtype, encoder.batch_tokens) == ("bfloat16", 77)
    assert Encoder.load(llama_folder, settings=FLOAT32, dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(ConfigError, match="device banana: not usable here"):
        Encoder.load(llama_folder, device="banana")


def test_progress_is_shown_when_asked_for(llama_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = encoder_for(llama_folder)
    with caplog.at_level("INFO"):
        silent = encoder.encode_passages(["river", "stone"])
        assert "encoding" not in caplog.text
        np.testing.assert_array_equal(encoder.encode_passages(["river", "stone"], show_progress=True), silent)
    assert "encoding: 2 of 2 texts" in caplog.text


def test_passage_batches_give_the_same_bits_and_skip_whole_batches(llama_folder: Path, sentences: list[str]) -> None:
    encoder = encoder_for(llama_folder)
    encoder.batch_tokens = 150
    expected = encoder.encode_passages(sentences)
    batches = list(encoder.passage_batches(sentences))
    assert sorted(row for rows, _ in batches for row in rows) == list(range(len(sentences)))
    for rows, vectors in batches:
        np.testing.assert_array_equal(vectors, expected[rows])
    done = {row for rows, _ in batches[:2] for row in rows}
    rest = list(encoder.passage_batches(sentences, [row in done for row in range(len(sentences))]))
    assert [rows for rows, _ in rest] == [rows for rows, _ in batches[2:]]
    for (_, again), (_, first) in zip(rest, batches[2:], strict=True):
        np.testing.assert_array_equal(again, first)


def test_a_vector_that_is_not_finite_is_refused(llama_folder: Path) -> None:
    encoder = encoder_for(llama_folder)
    row = encoder.backbone.tokenizer("castle", add_special_tokens=False)["input_ids"][-1]
    with torch.no_grad():
        encoder.backbone.model.get_input_embeddings().weight[row] = torch.inf
    with pytest.raises(ModelError, match="a vector is not finite in float32"):
        encoder.encode_passages(["castle"])


def test_a_text_keeps_its_beginning_whatever_side_the_tokenizer_cuts(llama_folder: Path, tmp_path: Path) -> None:
    left = Path(shutil.copytree(llama_folder, tmp_path / "left"))
    config = json.loads((left / "tokenizer_config.json").read_text())
    (left / "tokenizer_config.json").write_text(json.dumps(config | {"truncation_side": "left"}))
    text = "river " * 5 + "castle " * 400
    np.testing.assert_array_equal(
        encoder_for(left).encode_passages(text), encoder_for(llama_folder).encode_passages(text)
    )


def test_a_longrope_vector_does_not_depend_on_its_batch(longrope_folder: Path) -> None:
    encoder = encoder_for(longrope_folder)
    texts = ["river castle", "castle " * 30]
    alone = np.stack([encoder.encode_passages(text) for text in texts])
    np.testing.assert_allclose(encoder.encode_passages(texts), alone, atol=1e-6)
    assert encoder.backbone.rotary_boundary == 32


def test_a_missing_head_is_not_saved_as_if_it_had_been_trained(
    make_model: Callable[..., Any], make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    make_model("llama").model.save_pretrained(tmp_path / "headless")
    make_tokenizer().save_pretrained(tmp_path / "headless")
    encoder = encoder_for(tmp_path / "headless")
    assert encoder.backbone.missing_head == ("lm_head.weight",)
    again = encoder_for(encoder.save(tmp_path / "saved"))
    assert again.backbone.missing_head == ("lm_head.weight",)
    np.testing.assert_array_equal(again.encode_queries("river"), encoder.encode_queries("river"))


@pytest.mark.parametrize(
    ("recipe", "pooling", "row", "columns"),
    [
        ("last-token", "slots", "{text}", slice(-1, None)),
        ("one-word", "slots", 'This sentence : "{text}" means in one word:"', slice(-1, None)),
        ("paper", "mean", "{text}", slice(1, None)),
    ],
)
def test_baselines_of_a_raw_model_are_read_by_hand(
    llama_folder: Path, recipe: str, pooling: str, row: str, columns: slice
) -> None:
    encoder = encoder_for(llama_folder, PROMPT_RECIPES[recipe], EncoderSettings(pooling=pooling))  # type: ignore[arg-type]
    tokenizer, text = encoder.backbone.tokenizer, "river stone bridge"
    before, after = row.split("{text}")
    ids = [tokenizer.bos_token_id]
    for part in (before, text, after):
        ids += tokenizer(part, add_special_tokens=False)["input_ids"] if part else []
    with torch.no_grad():
        hidden = encoder.backbone.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    expected = torch.nn.functional.normalize(hidden[columns].mean(dim=0), dim=0)
    for encode in (encoder.encode_passages, encoder.encode_queries):
        np.testing.assert_allclose(encode(text), expected, atol=1e-5)


def test_echo_averages_the_second_copy(llama_folder: Path) -> None:
    encoder = encoder_for(llama_folder, PROMPT_RECIPES["echo"], EncoderSettings(pooling="mean", passage_max_tokens=3))
    tokenizer, ids = encoder.backbone.tokenizer, encoder.contract.ids
    text = tokenizer("river stone bridge castle", add_special_tokens=False)["input_ids"][:3]
    row = [*ids.prefix, *text, *(ids.repeat or ()), *text]
    with torch.no_grad():
        hidden = encoder.backbone.model(torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0]
    expected = torch.nn.functional.normalize(hidden[-3:].mean(dim=0), dim=0)
    np.testing.assert_allclose(encoder.encode_passages("river stone bridge castle"), expected, atol=1e-5)
    # A copy that has seen the text whole has other states than one that has not.
    plain = encoder_for(llama_folder, None, EncoderSettings(pooling="mean", passage_max_tokens=3))
    assert float(plain.encode_passages("river stone bridge castle") @ expected.numpy()) < 0.999


def test_limits_may_include_the_prompt(llama_folder: Path, sentences: list[str]) -> None:
    released = PROMPT_RECIPES["released"]
    wanted = EncoderSettings(query_prompt="next", query_max_tokens=100, passage_max_tokens=110, count_prompt=True)
    encoder = encoder_for(llama_folder, released, wanted)
    ids, settings = encoder.contract.ids, encoder.contract.encoder
    assert settings.query_max_tokens == 100 - len(ids.prefix) - len(ids.suffixes["next"])
    assert settings.passage_max_tokens == 110 - len(ids.prefix) - len(ids.suffixes["self"])
    longest = [" ".join(sentences)] * 2
    rows = prompted_texts(encoder.backbone.tokenizer, longest, ids, *encoder.reading("passage"))
    assert {len(row) for row in rows} == {110}
    # What is kept counts the text alone, so that nothing else needs to know.
    assert "count_prompt" not in settings.model_dump()
    assert encoder.contract_hash == encoder_for(llama_folder, released, settings).contract_hash
    with pytest.raises(ContractError, match=r"encoder\.query_max_tokens is 4, which the prompt fills"):
        encoder_for(llama_folder, released, wanted.model_copy(update={"query_max_tokens": 4}))
    with pytest.raises(ContractError, match="next_prefix needs pooling=slots"):
        encoder_for(llama_folder, PROMPT_RECIPES["repllama"], EncoderSettings(pooling="mean"))


def test_a_model_in_shards_is_read_whole_and_leaves_none_behind(
    make_model: Callable[..., Any], make_tokenizer: Callable[..., Any], tmp_path: Path, texts: list[str]
) -> None:
    make_model("llama").save_pretrained(tmp_path / "whole")
    make_model("llama").save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    for folder in ("whole", "shards"):
        make_tokenizer().save_pretrained(tmp_path / folder)
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    encoder = encoder_for(tmp_path / "shards")
    expected = encoder_for(tmp_path / "whole").encode_passages(texts)
    np.testing.assert_array_equal(encoder.encode_passages(texts), expected)
    encoder.save(tmp_path / "shards", overwrite=True)
    assert [file.name for file in (tmp_path / "shards").glob("*.safetensors*")] == ["model.safetensors"]
    np.testing.assert_array_equal(encoder_for(tmp_path / "shards").encode_passages(texts), expected)


@pytest.mark.parametrize("given", ["8", -1, True, 1.5, np.float32(8)])
def test_a_batch_size_that_is_no_number_of_tokens_is_refused(llama_folder: Path, given: Any) -> None:
    line = r"batch_tokens is .*; give (a whole number|at least 0)"
    with pytest.raises(ConfigError, match=line):
        Encoder.load(llama_folder, settings=FLOAT32, batch_tokens=given)
    encoder = encoder_for(llama_folder)
    usual = encoder.batch_tokens
    with pytest.raises(ConfigError, match=line):
        encoder.batch_tokens = given
    assert encoder.batch_tokens == usual
    encoder.batch_tokens = np.int64(77)  # type: ignore[assignment]
    assert encoder.batch_tokens == 77
    encoder.batch_tokens = None
    assert encoder.batch_tokens == usual


@pytest.mark.parametrize("given", [10.5, "10", True])
def test_a_limit_that_is_no_number_of_tokens_is_refused(llama_folder: Path, given: Any) -> None:
    with pytest.raises(ConfigError, match=r"max_tokens is .*; give a whole number"):
        encoder_for(llama_folder).encode_poolings(["river"], "self", given)


def test_an_array_without_dimensions_is_no_list_of_texts(llama_folder: Path) -> None:
    with pytest.raises(DataError, match="the texts are of type ndarray; give a list"):
        encoder_for(llama_folder).encode_passages(np.array("river"))  # type: ignore[arg-type]


def test_a_file_in_the_place_of_the_folder_stays(llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(OutputExistsError, match="notes: a file; give a folder"):
        encoder_for(llama_folder).save(tmp_path / "notes", overwrite=True)
    with pytest.raises(DataError, match="cannot be written"):
        encoder_for(llama_folder).save(tmp_path / "notes" / "model")
    assert (tmp_path / "notes").read_text() == "mine"
