"""GGUF files: unpacked into a folder of the cache, with the tokenizer that they carry."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama2vec.errors import ModelError
from llama2vec.files import write_atomic
from llama2vec.model.loading import (
    CACHE_FORMAT,
    SAFE,
    check_weights,
    into_cache,
    is_whole_in_cache,
    model_errors,
    quiet_transformers,
    weights_to_save,
)
from llama2vec.model.source import ModelSource, cache_folder
from llama2vec.terminal import ProgressReporter

logger = logging.getLogger(__name__)

_SPECIAL_TOKENS = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}  # GGUF's names and transformers'


def unpacked_folder(source: ModelSource) -> Path:
    """Return where a GGUF file is unpacked."""
    return cache_folder() / "gguf" / f"{source.fingerprint()[:16]}-{CACHE_FORMAT}"


def gguf_tokenizer(source: ModelSource) -> Any:
    """Read the tokenizer in a GGUF file, with the special tokens that the file names.

    Some releases of transformers (5.17) take the first special token for the end of a text.
    """
    from gguf import GGUFReader
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source.location, gguf_file=source.gguf_file, **SAFE)
    fields = GGUFReader(Path(source.location, source.gguf_file or "")).fields
    for theirs, ours in _SPECIAL_TOKENS.items():
        field = fields.get(f"tokenizer.ggml.{theirs}_token_id")
        token = tokenizer.convert_ids_to_tokens(int(field.contents())) if field else None
        if token is not None and token != getattr(tokenizer, f"{ours}_token"):
            setattr(tokenizer, f"{ours}_token", token)
    return tokenizer


def unpack_gguf(source: ModelSource) -> str:
    """Dequantize a GGUF file into a float32 model folder, once; transformers refuses to save what it read from GGUF."""
    folder = unpacked_folder(source)
    if is_whole_in_cache(folder):
        return str(folder)
    logger.info("%s: dequantizing %s once into %s", source.name, source.gguf_file, folder)
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_transformers(), model_errors(source), _counting_tensors():
        _refuse_part(source)
        model, found = AutoModelForCausalLM.from_pretrained(
            source.location, gguf_file=source.gguf_file, dtype=torch.float32,
            output_loading_info=True, ignore_mismatched_sizes=True, **_dequantizing(), **SAFE,
        )  # fmt: skip
        missing = check_weights(source.name, model, found)
        tokenizer = gguf_tokenizer(source)
        clean = _without_quantization(model)
    with into_cache(folder) as partial:
        with quiet_transformers():
            clean.save_pretrained(partial, state_dict=weights_to_save(clean, missing))
            tokenizer.save_pretrained(partial)
        _drop_tokens_beyond(partial / "tokenizer.json", clean.get_input_embeddings().weight.shape[0])
    return str(folder)


@contextmanager
def _counting_tensors() -> Iterator[None]:
    """Show how many tensors are unpacked as we show it; transformers would draw a bar of its own, in files too."""
    from transformers import modeling_gguf_pytorch_utils as theirs

    def counted_tensors(tensors: Sequence[Any], **_: Any) -> Iterator[Any]:
        with ProgressReporter("dequantizing", "tensor") as progress:
            progress.start(len(tensors))
            yield from progress.counted(tensors)

    bar = getattr(theirs, "tqdm", None)
    if bar is None:  # A release that draws none
        yield
        return
    theirs.tqdm = counted_tensors
    try:
        yield
    finally:
        theirs.tqdm = bar


def _dequantizing() -> dict[str, Any]:
    """Return the option that unpacks every weight; since 5.23, transformers may keep them packed (package kernels)."""
    import transformers

    return (
        {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    )


def _refuse_part(source: ModelSource) -> None:
    """Raise a ModelError for one part of a split GGUF file: transformers reads no more than that part."""
    from gguf import GGUFReader

    field = GGUFReader(Path(source.location, source.gguf_file or "")).fields.get("split.count")
    if field and (count := int(field.contents())) > 1:
        raise ModelError(
            f"{source.name}: one of the {count} parts of a split GGUF file; join them with "
            "`llama-gguf-split --merge FIRST-PART WHOLE.gguf` and give the whole file"
        )


def _without_quantization(model: Any) -> Any:
    """Return the same model with a config that does not name the file's quantization."""
    import torch
    from transformers import AutoModelForCausalLM

    kept = {key: value for key, value in model.config.to_dict().items() if key not in ("quantization_config", "dtype")}
    with torch.device("meta"):  # Random weights for each of Gemma's 262,144 tokens would take seconds.
        clean = AutoModelForCausalLM.from_config(type(model.config).from_dict(kept), dtype=torch.float32, **SAFE)
    clean.load_state_dict(model.state_dict(), assign=True)
    clean.tie_weights()
    return clean


def _drop_tokens_beyond(path: Path, rows: int) -> None:
    """Take tokens that the model has no rows for out of a tokenizer; transformers adds such to one read from GGUF."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < rows]
    write_atomic(path, json.dumps(content, ensure_ascii=False).encode())
