"""An encoder as a GGUF file for llama.cpp: Llama, Mistral and Qwen models with byte-level BPE tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llama2vec.errors import ModelError
from llama2vec.manifest import canonical_json
from llama2vec.model.limits import obstacles
from llama2vec.model.publish.prompted_tokenizer import surroundings
from llama2vec.model.publish.stacks import GGUF_MODELS

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder

GGUF_FILE = "model.gguf"
FILE_TYPES = {"none": "F32", "float16": "F16", "int8": "Q8_0"}
"""What ``--quantize`` calls a format → its name in GGUF."""


_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPLITS = {
    _ENGLISH + _WORDS.replace("{digits}", digits): name for digits, name in (("{1,3}", "llama-bpe"), ("", "qwen2"))
}


def write_gguf(encoder: Encoder, path: Path, quantize: str = "none") -> None:
    """Write weights and tokenizer of an encoder, with the pooling that its contract needs.

    llama.cpp adds BOS and EOS by itself where they are all of the prompt; its client sends any other prompt.

    Raises:
        ModelError: llama.cpp cannot give these vectors, or the architecture or tokenizer is not supported here.
    """
    import gguf

    from llama2vec.model.backbone import decoder

    config = encoder.backbone.model.config
    _check(encoder, config)
    architecture, kind = GGUF_MODELS[config.model_type], getattr(gguf.GGMLQuantizationType, FILE_TYPES[quantize])
    writer = gguf.GGUFWriter(path, architecture)
    try:
        _write_sizes(writer, config)
        pools_slots = encoder.contract.encoder.pooling == "slots"
        writer.add_pooling_type(gguf.PoolingType.LAST if pools_slots else gguf.PoolingType.MEAN)
        writer.add_file_type(
            getattr(gguf.LlamaFileType, {"F32": "ALL_F32", "F16": "MOSTLY_F16"}.get(kind.name, "MOSTLY_Q8_0"))
        )
        writer.add_name(Path(encoder.backbone.source.name).name)
        writer.add_string("llama2vec.contract", canonical_json(encoder.contract.to_dict()))
        _write_tokenizer(writer, encoder)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
        for name, weight in decoder(encoder.backbone.model).state_dict().items():
            tensor = names.get_name(f"model.{name}", try_suffixes=(".weight", ".bias"))
            if tensor is None:
                raise ModelError(
                    f"{encoder.backbone.source.name}: GGUF has no place for {name}; export to onnx instead"
                )
            values = weight.float().numpy()
            values = _pairs_side_by_side(tensor, values, config) if architecture == "llama" else values
            # Norms and biases stay float32, as llama.cpp expects; blocks of 8-bit numbers hold 32.
            fits = kind if kind.name != "Q8_0" or values.shape[-1] % 32 == 0 else gguf.GGMLQuantizationType.F16
            chosen = fits if values.ndim == 2 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(tensor, gguf.quants.quantize(values, chosen), raw_dtype=chosen)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _check(encoder: Encoder, config: Any) -> None:
    """Raise a ModelError for what llama.cpp, or this writer, cannot do."""
    found = obstacles(encoder.contract.ids, encoder.contract.encoder, prompts_sent=True)
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if config.model_type not in GGUF_MODELS:
        found.append(f"its architecture is {config.model_type}; llama.cpp's own converter may know it")
    if rope != "default":
        found.append(f"its rotary positions are scaled ({rope})")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()) or (
        config.model_type == "mistral" and getattr(config, "sliding_window", None)
    ):
        found.append("its attention has a window")
    if found:
        raise ModelError(f"{encoder.backbone.source.name}: cannot become GGUF: {'; '.join(found)}")


def _write_sizes(writer: Any, config: Any) -> None:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(width)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: Any, encoder: Encoder) -> None:
    import gguf

    tokenizer, name = encoder.backbone.tokenizer, encoder.backbone.source.name
    content = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {"model": {}}
    before, after = surroundings(encoder.contract, "passage")
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    added, kinds = {token["id"]: token for token in content.get("added_tokens", [])}, gguf.TokenType
    rows = range(encoder.backbone.model.get_input_embeddings().weight.shape[0])
    types = [
        kinds.UNUSED if row not in words
        else (kinds.CONTROL if added[row]["special"] else kinds.USER_DEFINED) if row in added
        else kinds.NORMAL
        for row in rows
    ]  # fmt: skip
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_name(content, name))
    writer.add_token_list([words.get(row, f"[PAD{row}]") for row in rows])
    writer.add_token_types(types)
    merges = content["model"].get("merges", [])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for number, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_add_bos_token(before[:1] == (tokenizer.bos_token_id,))
    writer.add_add_eos_token(after == (tokenizer.eos_token_id,))


def _split_name(content: dict[str, Any], name: str) -> str:
    """Return what llama.cpp calls the way in which a byte-level tokenizer splits a text before its merges."""
    outer = content.get("pre_tokenizer") or {}
    parts = outer.get("pretokenizers", [outer])
    forms = [part.get("type") for part in parts]
    splits = _SPLITS.get(parts[0].get("pattern", {}).get("Regex", "")) if forms == ["Split", "ByteLevel"] else None
    simple = {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm"}.get(tuple(forms))
    found = splits or simple
    if found is None or content["model"].get("type") != "BPE" or content["model"].get("byte_fallback"):
        raise ModelError(
            f"{name}: cannot become GGUF: its tokenizer is none that this writer knows; see docs/stacks.md"
        )
    return found


def _pairs_side_by_side(tensor: str, values: NDArray[np.float32], config: Any) -> NDArray[np.float32]:
    """Reorder the rows of queries and keys, whose rotary pairs llama.cpp expects next to each other."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(tensor.split(".")[-2])
    if heads is None:
        return values
    halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
