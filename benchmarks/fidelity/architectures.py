"""Which causal language models work? Each architecture of transformers as a tiny random model, through every step.

    python -m benchmarks.fidelity.architectures --output benchmarks/results/architectures.json

Each model is saved, loaded, compared (joint against separate sequences, padded against unpadded ones), adapted for two
steps under LoRA, saved, loaded again and verified against plain transformers. ``--only KIND …`` measures some and
prints them. docs/architectures.py writes the table of docs/architectures.md from the results.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
USUAL: dict[str, Any] = {
    "vocab_size": 160, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
}  # fmt: skip
OLD = {"vocab_size": 160, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
EXPERTS = {
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "shared_expert_intermediate_size": 16, "norm_topk_prob": True,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4,
}  # fmt: skip
DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
MAMBA = {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2,
    "mamba_chunk_size": 16,
}  # fmt: skip
WINDOW = {"sliding_window": 8}  # Shorter than the texts, so that a wrong window shows.
CONV = {"layer_types": ["conv", "full_attention"]}

DENSE: dict[str, dict[str, Any]] = {
    "apertus": {}, "arcee": {}, "biogpt": {}, "bitnet": {}, "bloom": {"n_layer": 2, "n_head": 4},
    "codegen": {**OLD, "rotary_dim": 8, "n_ctx": 256}, "cohere": {}, "ctrl": {**OLD, "dff": 48}, "diffllama": {},
    "doge": {}, "ernie4_5": {}, "falcon": {"head_dim": None, "alibi": False},
    "falcon (ALiBi)": {"head_dim": None, "alibi": True}, "gemma": {}, "glm": {"partial_rotary_factor": 0.5},
    "glm4": {"partial_rotary_factor": 0.5}, "gpt2": OLD, "gpt_bigcode": OLD, "gpt_neox": {},
    "gpt_neox_japanese": {"intermediate_multiple_size": 2}, "gptj": {**OLD, "rotary_dim": 8}, "granite": {},
    "helium": {}, "hunyuan_v1_dense": {}, "llama": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256, "expansion_ratio": 2}, "nanochat": {},
    "nemotron": {}, "olmo": {}, "olmo2": {}, "openai-gpt": OLD, "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "persimmon": {}, "phi": {}, "qwen2": {}, "qwen3": {}, "seed_oss": {}, "smollm3": {}, "stablelm": {},
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48}, "youtu": LATENT,
}  # fmt: skip
WINDOWED: dict[str, dict[str, Any]] = {
    "cohere2": WINDOW, "cwm": WINDOW, "exaone4": WINDOW, "gemma2": WINDOW, "gemma3_text": WINDOW,
    "gemma3n_text": {
        **WINDOW, "num_hidden_layers": 4, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 160,
        "hidden_size_per_layer_input": 8, "laurel_rank": 8, "activation_sparsity_pattern": [0.0] * 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2, "intermediate_size": [48] * 4,
    },
    "gemma4_text": {
        **WINDOW, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 160, "num_kv_shared_layers": 0,
        "global_head_dim": 8, "num_global_key_value_heads": 2,
    },
    "gpt_neo": {
        "num_layers": 2, "num_heads": 4, "attention_types": [[["local", "global"], 1]], "window_size": 32,
    },
    "ministral": WINDOW, "mistral": WINDOW, "modernbert-decoder": {"local_attention": 8}, "olmo3": WINDOW,
    "phi3": WINDOW, "starcoder2": WINDOW, "vaultgemma": WINDOW,
}  # fmt: skip
SPARSE: dict[str, dict[str, Any]] = {
    "afmoe": {**EXPERTS, "num_dense_layers": 1}, "aria_text": {"moe_num_experts": 4, "moe_topk": 2},
    "deepseek_v2": {**EXPERTS, **LATENT, "topk_method": "greedy"}, "deepseek_v3": {**EXPERTS, **LATENT},
    "deepseek_v32": {**EXPERTS, **LATENT, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 256},
    "dots1": EXPERTS, "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16},
    "flex_olmo": EXPERTS, "glm4_moe": EXPERTS, "gpt_oss": {**EXPERTS, **WINDOW}, "granitemoe": EXPERTS,
    "granitemoeshared": {**EXPERTS, "shared_intermediate_size": 16}, "hunyuan_v1_moe": {**EXPERTS, "moe_topk": 2},
    "jetmoe": {**EXPERTS, "kv_channels": 8},
    "llama4_text": {**EXPERTS, "intermediate_size_mlp": 48, "attention_chunk_size": 8},
    "minimax_m2": EXPERTS, "mixtral": EXPERTS, "olmoe": EXPERTS, "phimoe": EXPERTS, "qwen2_moe": EXPERTS,
    "qwen3_moe": EXPERTS,
}  # fmt: skip
RECURRENT: dict[str, dict[str, Any]] = {
    "bamba": {**MAMBA, "attn_layer_indices": [1]}, "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
    "falcon_mamba": {"state_size": 8}, "granitemoehybrid": {
        **EXPERTS, **MAMBA, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 48,
    },
    "jamba": {
        **EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "mamba_d_state": 8,
        "use_mamba_kernels": False,
    },
    "lfm2": {**CONV, "block_ff_dim": 48}, "lfm2_moe": {**EXPERTS, **CONV, "num_dense_layers": 1},
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
    "minimax": {**EXPERTS, "layer_types": ["linear_attention", "full_attention"], "block_size": 8},
    "nemotron_h": {
        **EXPERTS, "layers_block_type": ["mamba", "attention"], "mamba_num_heads": 8, "mamba_head_dim": 8,
        "ssm_state_size": 8, "n_groups": 1, "chunk_size": 16,
    },
    "olmo_hybrid": DELTA, "qwen3_5_text": DELTA, "qwen3_next": {**EXPERTS, **DELTA},
    "recurrent_gemma": {"lru_width": 32, "block_types": ["recurrent", "attention"], "attention_window_size": 8},
    "rwkv": {"attention_hidden_size": 32, "context_length": 256}, "xlstm": {"num_heads": 4, "num_blocks": 2},
    "zamba": {
        "mamba_d_state": 8, "n_mamba_heads": 2, "attention_head_dim": 16, "attention_hidden_size": 64,
        "num_hidden_layers": 6, "layers_block_type": ["mamba", "mamba", "hybrid"] * 2, "attn_layer_period": 3,
        "attn_layer_offset": 2, "use_mamba_kernels": False,
    },
    "zamba2": {
        "mamba_d_state": 8, "mamba_ngroups": 1, "mamba_headdim": 8, "n_mamba_heads": 8, "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "mamba"], "chunk_size": 16, "num_mem_blocks": 1,
        "use_shared_attention_adapter": False, "adapter_rank": 4,
    },
}  # fmt: skip
GROUPS = {
    "dense": DENSE, "sliding windows": WINDOWED, "mixture of experts": SPARSE, "recurrent and hybrid": RECURRENT,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {kind: sizes for group in GROUPS.values() for kind, sizes in group.items()}

TEXT = (
    "The ferry leaves the old harbor at noon and crosses the bay in an hour. "
    "Two painters carried a ladder through the market, past the silver bridge. "
    "In winter the village buys copper and cotton from the merchants of the valley. "
)


def tiny_tokenizer() -> Any:
    """Return a fast byte-pair tokenizer of 140 tokens with BOS, EOS and padding, trained on ``TEXT``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;-\"'!?ĠĊ"
    trainer = trainers.BpeTrainer(
        vocab_size=140, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=list(letters), show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def save_tiny(kind: str, folder: Path) -> Path:
    """Save a tiny random model of an architecture with a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {name: value for name, value in {**USUAL, **KINDS[kind], **IDS}.items() if value is not None}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind.partition(" ")[0], **sizes))
    return save_strengthened(model, folder)


def save_strengthened(model: Any, folder: Path) -> Path:
    """Save a random model whose layers do more than they would right after initialization, with a tokenizer."""
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.mul_(3)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def measure(kind: str, work: Path) -> dict[str, Any]:
    """Return what happens to one architecture; ``refused`` holds the one line of a model that does not work."""
    from llama2vec.errors import Llama2VecError

    started = time.monotonic()
    found: dict[str, Any] = {"architecture": kind, "group": next(name for name in GROUPS if kind in GROUPS[name])}
    try:
        found |= _through_every_step(save_tiny(kind, work / "model"), work / "adapted")
    except Llama2VecError as error:
        found["refused"] = str(error).replace(str(work), "…")
    except Exception as error:  # The table shows it, and its test fails.
        found["fault"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return {**found, "seconds": round(time.monotonic() - started, 1)}


def _through_every_step(folder: Path, output: Path) -> dict[str, Any]:
    import numpy as np

    from llama2vec import Encoder
    from llama2vec.adapt.reader_choice import choose_reader, joint_difference, joint_fault
    from llama2vec.adapt.reading import SeparateReader
    from llama2vec.adapt.settings import AdaptConfig
    from llama2vec.adapt.stage import adapt_model
    from llama2vec.config import ModelSettings, PromptSettings, load_config
    from llama2vec.model.backbone import load_backbone
    from llama2vec.model.golden import read_golden
    from llama2vec.model.prompt import prompt_ids
    from llama2vec.records import Passage
    from llama2vec.verify.backends import open_backend
    from llama2vec.verify.settings import ServerSettings
    from llama2vec.verify.verification import verify

    settings = ModelSettings(name=str(folder), dtype="float32", device="cpu")
    backbone = load_backbone(settings)
    prompts = prompt_ids(backbone.tokenizer, PromptSettings())
    reader = choose_reader(backbone, prompts, "auto", most_tokens=128)
    found: dict[str, Any] = {
        "attention": backbone.model.config._attn_implementation or "",
        "sequences": "separate" if isinstance(reader, SeparateReader) else "joint",
        "reason": joint_fault(backbone, prompts, most_tokens=128),
        "difference": joint_difference(backbone, prompts, reader, most_tokens=128),
    }
    overrides = (
        f'model.name="{folder}"', "model.dtype=float32", "model.device=cpu", "model.lora.rank=2", "text.max_words=12",
        "text.held_out=0", "optimizer.steps=2", "optimizer.batch_size=2", "encoder.layers=2",
    )  # fmt: skip
    passages = [Passage(f"a-{number}", TEXT) for number in range(3)]
    encoder = adapt_model(load_config(AdaptConfig, None, overrides), output, passages=passages)
    targets = json.loads((output / "adapter" / "adapter_config.json").read_text())["target_modules"]
    logged = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in logged if "loss" in line)
    texts = [TEXT, TEXT[:30], "noon"]
    again = Encoder.load(output, settings=settings)
    np.testing.assert_array_equal(again.encode_queries(texts), encoder.encode_queries(texts))
    golden = read_golden(output)
    for name in ("llama2vec", "transformers"):
        asked = open_backend(name, output, golden, dtype="float32", device="cpu", server=ServerSettings())
        result = verify(output, golden, asked, device="cpu")
        found[f"verify {name}"] = max(one.largest_difference for one in result.sides.values())
        found[f"verified by {name}"] = result.passed
    return {**found, "lora": sorted({name.rpartition(".")[2] for name in targets})}


def main() -> None:
    """Measure all architectures, or those that are named."""
    from transformers import __version__
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=KINDS, metavar="KIND")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = []
    for kind in options.only or KINDS:
        with tempfile.TemporaryDirectory() as work:
            rows.append(measure(kind, Path(work)))
        print(json.dumps(rows[-1]), flush=True)
    if options.output:
        results = {"transformers": __version__, "architectures": rows}
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
