"""A model of the paper recipe with one layer, behind llama.cpp's own server: what docs/stacks.md says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llama2vec.config import ModelSettings
from llama2vec.model.encoder import Encoder
from llama2vec.verify.backends import open_backend
from llama2vec.verify.settings import ServerSettings
from llama2vec.verify.verification import Verification, read_golden, verify

# As `llama-server --embeddings --pooling POOLING --cache-type-k TYPE --cache-type-v TYPE`.
SERVER = """
import sys, time
import xllamacpp as llama

file, pooling, number_format = sys.argv[1:]
settings = llama.CommonParams()
settings.model.path = file
settings.embedding = True
settings.pooling_type = getattr(llama.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling}")
settings.cache_type_k = settings.cache_type_v = getattr(llama.ggml_type, f"GGML_TYPE_{number_format}")
settings.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
settings.n_ctx = settings.n_batch = settings.n_ubatch = 1024
settings.n_parallel, settings.port = 1, 0
server = llama.Server(settings)
print("address", server.listening_address, flush=True)
time.sleep(600)
"""
TENSORS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def write_gguf(encoder: Encoder, path: Path) -> None:
    """Write a tiny Llama as llama.cpp's own converter does; that one knows only the tokenizers of published models."""
    config, tokenizer = encoder.backbone.model.config, encoder.backbone.tokenizer
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL if word in special else gguf.TokenType.NORMAL for word in words])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(True)
    for name, weight in encoder.backbone.model.state_dict().items():
        tensor = _tensor_name(name)
        if tensor:
            writer.add_tensor(tensor, _rotary_pairs_side_by_side(tensor, weight.numpy(), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensor_name(name: str) -> str | None:
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if not name.startswith("model.layers."):
        return whole.get(name)
    number, inner = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
    return f"blk.{number}.{TENSORS[inner]}.weight"


def _rotary_pairs_side_by_side(tensor: str, weight: Any, config: Any) -> Any:
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(tensor.split(".")[-2])
    if heads is None:
        return weight
    rows = weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)
    return np.ascontiguousarray(rows)


@pytest.fixture(scope="module")
def servable(new_encoder: Callable[..., Path]) -> Path:
    """The paper recipe with one layer, and its GGUF file beside it."""
    folder = new_encoder("servable", "paper", layers=1)
    write_gguf(
        Encoder.load(folder, settings=ModelSettings(dtype="float32", device="cpu")), folder.parent / "model.gguf"
    )
    return folder


@contextmanager
def llama_server(folder: Path, pooling: str, number_format: str) -> Iterator[str]:
    command = [sys.executable, "-c", SERVER, str(folder.parent / "model.gguf"), pooling, number_format]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout
            yield next(line.split()[1] for line in server.stdout if line.startswith("address"))
        finally:
            server.terminate()


def verified(folder: Path, pooling: str = "LAST", number_format: str = "F32", **changes: Any) -> Verification:
    golden = read_golden(folder)
    with llama_server(folder, pooling, number_format) as url:
        server = ServerSettings.model_validate({"url": url, "input_type_field": "none", **changes})
        return verify(folder, golden, open_backend("http", folder, golden, server=server), device="cpu")


def test_llama_cpp_gives_the_encoder_s_vectors_with_prompt_and_eos_sent_as_text(servable: Path) -> None:
    found = verified(servable)
    assert found.passed, found.lines()
    assert any("whether the server adds the prompts" in what for what in found.unchecked)


def test_token_ids_give_the_encoder_s_vectors_whatever_the_server_s_tokenizer_does(
    servable: Path, recipe: Callable[..., subprocess.CompletedProcess[str]], corpus_file: Path
) -> None:
    with llama_server(servable, "LAST", "F32") as url:
        finished = recipe("pooling_server.py", servable, "--url", f"{url}/v1", "--corpus", corpus_file)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.count("largest difference from the encoder") == 2
        forgotten = recipe("pooling_server.py", servable, "--url", f"{url}/v1", change={", *behind]": "]"})
    assert forgotten.returncode == 1
    assert "these are not the encoder's vectors" in forgotten.stderr


def test_a_model_that_such_a_server_cannot_pool_is_refused(
    model: Path, recipe: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    finished = recipe("pooling_server.py", model)
    assert finished.returncode == 1
    assert "its vectors are the mean of 2 layers; its vectors are the mean of 8 slots" in finished.stderr


def test_llama_cpp_s_usual_cache_in_half_precision_is_off_by_little(servable: Path) -> None:
    found = verified(servable, number_format="F16")
    gaps = [side.largest_difference or 1 for side in found.sides.values()]
    assert 1e-5 < max(gaps) < 1e-2


@pytest.mark.parametrize("pooling", ["MEAN", "CLS"])
def test_another_pooling_does_not_pass(pooling: str, servable: Path) -> None:
    found = verified(servable, pooling)
    assert not found.passed
    assert all(not side.passed for side in found.sides.values())


def test_texts_without_prompt_and_eos_do_not_pass_and_the_cause_is_named(servable: Path) -> None:
    # llama.cpp ignores the field, and so nothing stands behind the text.
    found = verified(servable, input_type_field="input_type")
    assert not found.passed
    assert {cause.fault for cause in found.causes} & {"no EOS", "no prompt"}
