"""A compact encoder: the low-rank difference between an encoder and its LLM, in a few megabytes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llama2vec.artifact import claim, folder_kind, read_object
from llama2vec.config import ModelSettings
from llama2vec.errors import ModelError
from llama2vec.files import apply_umask, disk_errors, write_json
from llama2vec.model.contract import load_contract
from llama2vec.model.difference import adapter_key, is_above
from llama2vec.model.golden import GOLDEN_FILE, GOLDEN_TEXTS, GOLDEN_VECTORS, save_golden
from llama2vec.model.local import fetched, layer_count, llm_of_compact, merge
from llama2vec.model.packaged import PACKAGED
from llama2vec.model.publish.origin import CARD_FILE, origin_of, public_name
from llama2vec.model.publish.portable_files import PUBLIC_FILES
from llama2vec.model.publish.publishing import add_public_files, is_authors_card
from llama2vec.model.publish.stacks import stack_lines
from llama2vec.model.source import (
    ADAPTER_CONFIG,
    COMPACT_ADAPTER,
    COMPACT_FILE,
    COMPACT_FILES,
    CONTRACT_FILE,
    ModelSource,
    ModelSpec,
    resolve_model,
    scratch_folder,
)

if TYPE_CHECKING:
    import torch

    from llama2vec.model.encoder import Encoder

_FORMAT = {"format": "llama2vec-compact", "version": 1}
_FLOAT32 = ModelSettings(dtype="float32", device="cpu")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Compacted:
    """What became of an encoder."""

    base: str  # Name of the LLM
    rank: int
    kept: float  # Share of the difference's squared norm that the rank keeps
    cosine: float  # Smallest cosine between the vectors of the two encoders on the golden texts
    megabytes: float
    stacks: str  # What opens the encoder itself


COMPACT = folder_kind(
    "a compact encoder", COMPACT_FILE, _FORMAT,
    entries=(
        *COMPACT_FILES, "config.json", CONTRACT_FILE, GOLDEN_FILE,
        GOLDEN_VECTORS, CARD_FILE, *TOKENIZER_FILES, *PUBLIC_FILES,
    ),
)  # fmt: skip


def save_compact(
    model: str | Path, output: str | Path, *, base: str = "", rank: int = 16, overwrite: bool = False
) -> Compacted:
    """Save an encoder as a LoRA difference from its LLM; the folder loads as any other model does.

    The difference of every linear layer is cut to its ``rank`` largest singular values and kept in float16. An
    encoder that was adapted and fine-tuned with LoRA has a difference whose rank is the sum of theirs.

    Args:
        model: A saved encoder.
        output: The folder to write.
        base: The LLM that it was trained from; "" = what its manifests say.
        rank: Most singular values of each layer.
        overwrite: Replace a compact encoder in ``output``.

    Raises:
        ModelError: The encoder differs from the LLM by more than its linear layers, or the LLM is unknown.
        OutputExistsError: ``output`` holds something else.
    """
    if rank < 1:
        raise ModelError(f"the rank is {rank}; give at least 1")
    source = fetched(resolve_model(str(model)))
    named = base or _base_of(str(model))
    origin, weights = llm_of_compact(fetched(resolve_model(named)))
    from safetensors.torch import save_file

    from llama2vec.model.encoder import Encoder

    encoder = Encoder.from_spec(ModelSpec.of_source(source), _FLOAT32, source)
    made = {"model": encoder.contract_hash, "base": origin.fingerprint(), "rank": rank}
    with claim(Path(output), COMPACT, made, overwrite=overwrite, inputs=[str(model), str(weights)]) as work:
        if not work.is_finished:
            folder = work.begin([CARD_FILE] if is_authors_card(Path(output) / CARD_FILE) else [])
            if origin.gguf_file:
                _keep_tokenizer(weights, folder)
            adapter, ranks, kept = _difference(weights, Path(encoder.backbone.source.location), named, rank)
            save_file(adapter, folder / COMPACT_ADAPTER, metadata={"format": "pt"})
            public = origin.hub_id or public_name(named)
            write_json(folder / ADAPTER_CONFIG, _adapter_config(public, ranks, rank))
            cosine = _complete(encoder, weights, folder, Path(output))
            # The name of a package stands for its own weights; these may be those of the hub.
            spec = ModelSpec(name=origin.hub_id) if origin.hub_id else ModelSpec.of_source(resolve_model(named))
            facts = {"kept": kept, "cosine": cosine}
            write_json(folder / COMPACT_FILE, {**_FORMAT, "base": spec.to_json(output), "made": made, **facts})
            apply_umask(folder)
            work.finish()
    facts = read_object(Path(output) / COMPACT_FILE) or {}
    size = (Path(output) / COMPACT_ADAPTER).stat().st_size / 1e6
    kind = encoder.backbone.model.config.get_text_config().model_type
    stacks = "; ".join(stack_lines(encoder.contract, kind, padding_matters=encoder.backbone.padding_changes_vectors))
    return Compacted(named, rank, facts["kept"], facts["cosine"], size, stacks)


def _base_of(model: str) -> str:
    origin = origin_of(model)
    if not origin.base:
        raise ModelError(f"{model}: does not say which LLM it was trained from; name it with --base")
    # A card has the hub's name of an LLM that comes as a package.
    packaged = (name for name, llm in PACKAGED.items() if llm.hub == origin.base)
    return origin.loaded_as or next(packaged, origin.base)


def _keep_tokenizer(base: Path, folder: Path) -> None:
    """Copy the tokenizer read from a GGUF file: releases of transformers make different ones of the same file."""
    for name in TOKENIZER_FILES:
        content = read_object(base / name)
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _difference(base: Path, model: Path, name: str, rank: int) -> tuple[dict[str, torch.Tensor], dict[str, int], float]:
    """Return the adapter as peft reads it, the rank of each linear layer, and the kept share of the squared norm."""
    import torch

    before, after = (_state(place) for place in (base, model))
    before = {key: weight for key, weight in before.items() if not is_above(key, layer_count(model))}
    differs = sorted(key for key in before.keys() | after.keys() if not _same(before.get(key), after.get(key)))
    if not differs:
        raise ModelError(f"{model}: has the same weights as {name}; nothing remains to save")
    adapter: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    kept = whole = 0.0
    for key in differs:
        first, second = before.get(key), after.get(key)
        if first is not None and second is not None and first.shape == second.shape and second.ndim == 1:
            adapter[key] = second.half()  # A norm, whole
            continue
        if first is None or second is None or first.shape != second.shape or first.ndim != 2 or "layers." not in key:
            raise ModelError(
                f"{model}: {key} differs from that of {name}, and a compact encoder holds only differences of linear "
                "layers and norms; train with LoRA and without new tokens"
            )
        left, values, right = torch.linalg.svd(second.float() - first.float(), full_matrices=False)
        root = values[:rank].sqrt()
        adapter[adapter_key(key, "A")] = (root[:, None] * right[:rank]).half().contiguous()
        adapter[adapter_key(key, "B")] = (left[:, :rank] * root).half().contiguous()
        ranks[key.removesuffix(".weight")] = len(root)
        kept += float(values[:rank].square().sum())
        whole += float(values.square().sum())
    return adapter, ranks, kept / whole if ranks else 1.0


def _adapter_config(name: str, ranks: Mapping[str, int], rank: int) -> dict[str, Any]:
    """Return peft's config of linear layers whose products have these ranks; each is added as it is (alpha = rank)."""
    most = max(ranks.values(), default=rank)
    narrow = {layer: less for layer, less in ranks.items() if less < most}
    config: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": name}
    config |= {"r": most, "lora_alpha": most, "target_modules": sorted({layer.split(".")[-1] for layer in ranks})}
    return config | {"inference_mode": True} | ({"rank_pattern": narrow, "alpha_pattern": narrow} if narrow else {})


def _state(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for file in ModelSource("", str(folder)).weight_files():
        found |= load_file(file)
    return found


def _same(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    """Tell whether the second is the first, at most rounded to the number formats that training loads and saves."""
    if first is None or second is None or first.shape != second.shape:
        return False
    import torch

    formats = (torch.float32, torch.float16, torch.bfloat16)
    return any(torch.equal(first.to(step).to(second.dtype), second) for step in formats)


def _complete(encoder: Encoder, base: Path, folder: Path, output: Path) -> float:
    """Add contract, golden vectors and card of the merged encoder; return its smallest golden cosine to ``encoder``."""
    from llama2vec.model.encoder import Encoder

    home = Path(tempfile.gettempdir())
    with scratch_folder(home, "llama2vec-") as merged:
        shutil.copyfile(Path(encoder.backbone.source.location) / "config.json", folder / "config.json")
        with disk_errors(home, only_full=True):
            merge(folder, base, merged, encoder.contract)
        again = Encoder.load(
            merged, settings=_FLOAT32, prompts=encoder.contract.prompts, encoder=encoder.contract.encoder
        )
        contract = again.contract
        contract.save(folder)
        save_golden(again.golden(), folder)
        add_public_files(folder, output, str(encoder.backbone.source.compact or encoder.backbone.source.location))
        shutil.copyfile(folder / CONTRACT_FILE, merged / CONTRACT_FILE)
        load_contract(merged, again.backbone.tokenizer).check_files(merged)
        pairs = zip(encoder.encode_passages(GOLDEN_TEXTS), again.encode_passages(GOLDEN_TEXTS), strict=True)
        return min(float(np.dot(*pair)) for pair in pairs)
