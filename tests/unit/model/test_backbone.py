"""Backbones: found, checked for causality, grown by slots, adapted with LoRA."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, ModelSettings
from llama2vec.errors import ConfigError, ModelError, ModelNotFoundError, NotCausalError
from llama2vec.model.backbone import Backbone, decoder, load_backbone
from llama2vec.model.encoder import Encoder
from llama2vec.model.tokenizer import load_tokenizer

CPU = torch.device("cpu")
RELEASED = PROMPT_RECIPES["released"]


def load(folder: Path | str, **settings: Any) -> Backbone:
    return load_backbone(ModelSettings(name=str(folder), dtype="float32", device="cpu", **settings))


def test_an_unreachable_hub_id_is_one_line() -> None:
    with pytest.raises(ModelNotFoundError, match="someone/no-such-model") as caught:
        load("someone/no-such-model")
    assert "\n" not in str(caught.value)


def test_a_broken_config_and_missing_weights_are_one_line_each(llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{ not json", encoding="utf-8")
    with pytest.raises(ModelError) as broken:
        load(tmp_path)
    (tmp_path / "config.json").write_text((llama_folder / "config.json").read_text(), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((llama_folder / name).read_bytes())
    with pytest.raises(ModelNotFoundError, match="no model could be loaded") as missing:
        load(tmp_path)
    for caught in (broken, missing):
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_unknown_model_type_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard-of"}), encoding="utf-8")
    with pytest.raises(ModelError, match="unheard-of"):
        load(tmp_path)


# ---------------------------------------------------------------------------------------------------- causality


def test_every_supported_architecture_loads(save_model: Callable[..., Path], tmp_path: Path, architecture: str) -> None:
    backbone = load(save_model(tmp_path, architecture))
    assert not backbone.model.training
    assert backbone.model.config.use_cache is False
    ids = torch.arange(6)[None]
    hidden = decoder(backbone.model)(input_ids=ids, use_cache=False).last_hidden_state
    logits = backbone.model(input_ids=ids).logits
    torch.testing.assert_close(backbone.model.get_output_embeddings()(hidden), logits)


def test_the_lowest_layers_are_kept_with_norm_and_head(
    save_model: Callable[..., Path], tmp_path: Path, architecture: str
) -> None:
    folder = save_model(tmp_path / architecture, architecture)
    ids = torch.tensor([[5, 9, 30, 7]])
    whole, short = load(folder), load(folder, layers=1)
    body = decoder(whole.model)
    states = body(input_ids=ids, output_hidden_states=True).hidden_states[1]
    norm = next(module for name, module in body.named_children() if "norm" in name or name == "ln_f")
    found = decoder(short.model)(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, norm(states))
    assert (short.model.config.num_hidden_layers, short.missing_head) == (1, ())
    short.require_head("adapt")
    assert load(folder, layers=2).model.config.num_hidden_layers == 2
    with pytest.raises(ConfigError, match=r"model\.layers is 3 and the model has 2 layers; lower it"):
        load(folder, layers=3)


@pytest.mark.parametrize("kind", ["gemma2", "llama4_text", "opt", "gemma3n_text"])
def test_less_usual_architectures_load_and_encode(
    kind: str, tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    grouped = {"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8, "max_position_embeddings": 256}
    more = {
        "gemma2": grouped,
        "llama4_text": {**grouped, "num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 48},
        "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
        "gemma3n_text": {
            **grouped, "vocab_size_per_layer_input": 120, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
            "laurel_rank": 8, "activation_sparsity_pattern": [0.0, 0.0], "intermediate_size": [48, 48],
            "layer_types": ["sliding_attention", "full_attention"],
        },
    }[kind]  # fmt: skip
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with caplog.at_level("INFO"):
        encoder = Encoder.load(tmp_path, dtype="float32", encoder=EncoderSettings(layers=2))
    assert encoder.encode_queries("river").shape == (encoder.dimension,)
    assert encoder.dimension == (16 if kind == "opt" else 32)
    assert ("does not support SDPA attention; using eager attention" in caplog.text) is (kind == "gemma2")
    assert encoder.contract.encoder.layers == (1 if kind in ("opt", "gemma3n_text") else 2)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_encoder_decoder_is_refused(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

    if kind == "t5":
        t5 = T5Config(vocab_size=120, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
        T5ForConditionalGeneration(t5).save_pretrained(tmp_path)
    else:
        sizes = {f"{side}_{size}": 1 for side in ("encoder", "decoder") for size in ("layers", "attention_heads")}
        bart = BartConfig(
            vocab_size=120, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32, **sizes
        )
        BartForConditionalGeneration(bart).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(NotCausalError, match=f"'{kind}' is not a causal language model"):
        load(tmp_path)


def test_a_model_whose_earlier_positions_see_later_tokens_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForMaskedLM(BertConfig(vocab_size=120, **sizes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(NotCausalError, match="earlier positions see later tokens"):
        load(tmp_path)


def test_code_in_a_model_folder_is_neither_run_nor_asked_about(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(llama_folder, folder)
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nEvil = EvilConfig = None\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.Evil"},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on standard input"))
    with pytest.raises(ModelError, match="never runs such code"):
        load(folder)
    assert not mark.exists()


def test_a_model_that_is_no_language_model_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import ViTConfig

    ViTConfig().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(NotCausalError, match="'vit'"):
        load(tmp_path)


# -------------------------------------------------------------------------------------------------- number format


def test_weights_are_loaded_in_the_format_that_is_asked_for(llama_folder: Path) -> None:
    backbone = load_backbone(ModelSettings(name=str(llama_folder), dtype="bfloat16", device="cpu"))
    assert {weight.dtype for weight in backbone.model.parameters()} == {torch.bfloat16}


def test_rotary_frequencies_stay_as_exact_as_transformers_keeps_them(llama_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    backbone = load_backbone(ModelSettings(name=str(llama_folder), dtype="bfloat16", device="cpu"))
    stock = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.bfloat16)
    frequencies = backbone.model.model.rotary_emb.inv_freq
    assert frequencies.dtype == torch.float32
    assert torch.equal(frequencies, stock.model.rotary_emb.inv_freq)


# ----------------------------------------------------------------------------------------------- models that do not fit


def test_weights_that_are_missing_or_not_expected_are_named_and_never_random(
    llama_folder: Path, make_model: Callable[..., Any], make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    def folder_with(name: str, weights: dict[str, torch.Tensor], **config: Any) -> Path:
        folder = Path(shutil.copytree(llama_folder, tmp_path / name))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | config))
        return folder

    weights = load_file(llama_folder / "model.safetensors")
    wrapped = {f"module.{name}": weight for name, weight in weights.items()}
    with pytest.raises(ModelError, match=r"model\.embed_tokens\.weight.* missing; module\.lm_head.* unexpected"):
        load(folder_with("wrapped", wrapped))
    without = {name: weight for name, weight in weights.items() if name != "model.norm.weight"}
    with pytest.raises(ModelError, match=r"config: model\.norm\.weight missing; take"):
        load(folder_with("without", without))
    with pytest.raises(ModelError, match=r"config: model\.layers\.1\.\S+, .* and 6 more unexpected"):
        load(folder_with("shallow", weights, num_hidden_layers=1))
    biased = {**weights, "model.layers.0.self_attn.q_proj.bias": torch.ones(32)}
    with pytest.raises(ModelError, match=r"config: model\.layers\.0\.self_attn\.q_proj\.bias unexpected"):
        load(folder_with("biased", biased))
    old_buffers = {"visual.proj.weight": torch.zeros(2), "model.layers.0.self_attn.masked_bias": torch.zeros(1)}
    assert load(folder_with("harmless", {**weights, **old_buffers})).missing_head == ()
    with pytest.raises(
        ModelError, match=r"config: model\.layers\.0\.mlp\.down_proj\.weight, .* of another shape; take"
    ):
        load(folder_with("wide", weights, intermediate_size=64))


def test_token_ids_beyond_the_rows_are_told_at_load(
    make_model: Callable[..., Any], make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    make_model("llama", vocabulary=119).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="ids up to 119, and the model has 119 embedding rows"):
        load(tmp_path)


def test_numbers_that_overflow_in_float16_are_told_at_load(
    make_model: Callable[..., Any], make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    model = make_model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(3000)
            layer.mlp.up_proj.weight.mul_(3000)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    load(tmp_path)
    with pytest.raises(ModelError, match=r"not finite in float16; load it as bfloat16 or float32 \(--dtype\)"):
        load_backbone(ModelSettings(name=str(tmp_path), dtype="float16", device="cpu"))


def test_code_in_a_model_folder_never_runs_and_nothing_is_asked(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(llama_folder, tmp_path / "evil"))
    (folder / "evil.py").write_text(
        f"open({str(tmp_path / 'RAN')!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast\n"
        "class Tok(PreTrainedTokenizerFast): pass\n"
    )
    config = json.loads((folder / "tokenizer_config.json").read_text())
    auto = {"auto_map": {"AutoTokenizer": ["evil.Tok", None]}, "tokenizer_class": "EvilTok"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | auto))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked for permission"))
    with pytest.raises(ModelError, match="llama2vec never runs such code"):
        load(folder)
    with pytest.raises(ModelError, match="llama2vec never runs such code"):
        load_tokenizer(str(folder))
    assert not (tmp_path / "RAN").exists()


def test_texts_of_different_length_share_no_batch_where_padding_changes_vectors(
    llama_folder: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import LlamaModel

    plain, widths = LlamaModel.forward, []

    def by_length(self: Any, input_ids: torch.Tensor, **given: Any) -> Any:
        output = plain(self, input_ids=input_ids, **given)
        widths.append(tuple(input_ids.shape))
        output.last_hidden_state[..., 0] += 5.0 * input_ids.shape[1]
        return output

    texts = [sentences[0][:20], sentences[1][:5], sentences[0][:20]]
    assert not load(llama_folder).padding_changes_vectors
    monkeypatch.setattr(LlamaModel, "forward", by_length)
    with caplog.at_level("INFO"):
        encoder = Encoder.load(llama_folder, settings=ModelSettings(dtype="float32", device="cpu"))
    assert encoder.backbone.padding_changes_vectors
    assert "padding changes its vectors; only texts of equal length share a batch" in caplog.text
    widths.clear()
    together = encoder.encode_passages(texts)
    assert [rows for rows, _ in widths] == [2, 1]
    np.testing.assert_allclose(together, [encoder.encode_passages(text) for text in texts], atol=1e-6)
