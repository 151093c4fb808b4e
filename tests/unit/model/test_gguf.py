"""GGUF files are unpacked once, whole, with their own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llama2vec.config import ModelSettings
from llama2vec.errors import ModelError
from llama2vec.model import gguf as gguf_module
from llama2vec.model.backbone import Backbone, load_backbone
from llama2vec.model.encoder import Encoder
from llama2vec.model.tokenizer import load_tokenizer


def load(folder: Path | str, **settings: Any) -> Backbone:
    return load_backbone(ModelSettings(name=str(folder), dtype="float32", device="cpu", **settings))


def write_gguf(path: Path, model: Any, tokenizer: Any, *, without: str = "", parts: int = 1) -> None:
    """Write a tiny Llama as llama.cpp's converter would: rotary rows permuted, byte-pair merges as strings.

    The tensor ``without`` is left out; with several ``parts``, the file says that it is the first of them.
    """
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    data = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(data["vocab"], key=data["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in ("<pad>", "<s>", "</s>") else 1 for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in data["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    if parts > 1:
        writer.add_uint16("split.no", 0)
        writer.add_uint16("split.count", parts)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, weight in model.state_dict().items():
        if name == without:
            continue
        array = weight.float().numpy()
        stem = name.removesuffix(".weight")
        if stem in top:
            writer.add_tensor(f"{top[stem]}.weight", array)
            continue
        _, _, layer, inner = stem.split(".", 3)
        heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
        if inner in heads:
            half = array.shape[0] // heads[inner] // 2
            array = array.reshape(heads[inner], 2, half, -1).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(f"blk.{layer}.{names[inner]}.weight", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_file(
    make_model: Callable[..., Any], make_tokenizer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, make_model("llama"), make_tokenizer())
    return path


def test_a_gguf_file_is_dequantized_once_into_a_model_that_can_be_trained_and_saved(
    gguf_file: Path,
    make_model: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    sentences: list[str],
) -> None:
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    backbone = load(gguf_file)
    expected = make_model("llama").state_dict()
    found = backbone.model.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0)
    unpacked = list((tmp_path / "cache" / "gguf").iterdir())
    assert len(unpacked) == 1
    monkeypatch.setattr(gguf_module.logger, "info", lambda *_: pytest.fail("unpacked a second time"))
    load(gguf_file)
    assert list((tmp_path / "cache" / "gguf").iterdir()) == unpacked
    encoder = Encoder.from_backbone(backbone)
    before = encoder.encode_passages(sentences[:3])
    encoder.save(tmp_path / "saved")
    again = Encoder.load(tmp_path / "saved", settings=ModelSettings(dtype="float32"))
    np.testing.assert_array_equal(again.encode_passages(sentences[:3]), before)


def test_a_gguf_file_is_dequantized_even_where_transformers_could_keep_its_blocks(
    gguf_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import transformers

    if not hasattr(transformers, "GgufConfig"):
        pytest.skip("this transformers always dequantizes")
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    asked, read = [], transformers.AutoModelForCausalLM.from_pretrained

    def spy(*arguments: Any, **options: Any) -> Any:
        asked.append(options["quantization_config"].dequantize)
        return read(*arguments, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", spy)
    load(gguf_file)
    assert asked == [True]


def test_a_gguf_tokenizer_gives_the_ids_of_the_original(
    gguf_file: Path, make_tokenizer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    sentences: list[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    tokenizer = load(gguf_file).tokenizer
    assert tokenizer.eos_token_id == 2
    # transformers 5.17 takes the first special token for the end of a text.
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained

    def read_wrongly(*arguments: Any, **options: Any) -> Any:
        found = read(*arguments, **options)
        if "gguf_file" in options:
            found.eos_token, found.pad_token = "<s>", None
        return found

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", read_wrongly)
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "another"))
    for again in (load_tokenizer(str(gguf_file)), load(gguf_file).tokenizer):
        assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (1, 2, 0)
    monkeypatch.undo()
    original = make_tokenizer()
    for text in sentences[:5]:
        plain = original(text, add_special_tokens=False)["input_ids"]
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == plain


def test_a_file_that_only_claims_to_be_gguf_is_one_line_and_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"not a model" * 100)
    with pytest.raises(ModelError, match=r"fake\.gguf") as caught:
        load(fake)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_a_gguf_file_without_a_tensor_or_in_parts_is_refused_and_never_filled_with_random_weights(
    make_model: Callable[..., Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    lost = "model.layers.1.mlp.up_proj.weight"
    write_gguf(tmp_path / "lost.gguf", make_model("llama"), tokenizer, without=lost)
    with pytest.raises(
        ModelError, match=r"lost\.gguf: the weights do not fit .*: model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        load(tmp_path / "lost.gguf")
    write_gguf(tmp_path / "part.gguf", make_model("llama"), tokenizer, without=lost, parts=3)
    with pytest.raises(
        ModelError, match=r"part\.gguf: one of the 3 parts of a split GGUF file; join them with `llama-g"
    ):
        load(tmp_path / "part.gguf")
    assert not (tmp_path / "cache" / "gguf").exists()


def test_a_damaged_copy_of_an_unpacked_gguf_file_is_made_again(
    gguf_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    # Copied: weights are mapped from the file that is damaged below.
    expected = {name: weight.clone() for name, weight in load(gguf_file).model.state_dict().items()}
    (copy,) = (tmp_path / "cache" / "gguf").iterdir()
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-100] ^= 0x40
    (copy / "model.safetensors").write_bytes(content)
    for name, weight in load(gguf_file).model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)


def test_the_terminal_shows_our_progress_alone(
    gguf_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    with caplog.at_level("INFO"):
        load(gguf_file)
    assert "\r" not in capfd.readouterr().err
    assert "dequantizing: 21 of 21 tensors" in caplog.text
