"""What a saved encoder tells others: the model card, and files for sentence-transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from llama2vec.artifact import read_object
from llama2vec.errors import ContractError
from llama2vec.files import disk_errors, write_atomic
from llama2vec.model.contract import CONTRACT_FILE, prefix_words, saved_contract
from llama2vec.model.publish.origin import CARD_FILE, Manifest, Origin, origin_of
from llama2vec.model.publish.portable_files import write_sentence_transformers_files
from llama2vec.model.publish.stacks import stacks_of
from llama2vec.model.source import ADAPTER_CONFIG, COMPACT_ADAPTER
from llama2vec.model.tokenizer import load_model_config
from llama2vec.records import Report, Side

CARD_MARK = "<!-- Written by llama2vec. Remove this line and the card is yours: it is not written over again. -->"
_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_TAGS = ["sentence-transformers", "sentence-similarity", "feature-extraction", "dense-retrieval", "llama2vec"]


def add_public_files(folder: Path, destination: Path, made_from: str) -> None:
    """Complete a saved encoder in ``folder``, on its way to ``destination``; a card there with an author stays.

    A compact one gets a card alone: what the other files name opens only once it is merged with its LLM.
    """
    if not _llm_of_compact(folder):
        write_sentence_transformers_files(folder)
    if not is_authors_card(destination / CARD_FILE):
        write_model_card(folder, name=destination.resolve().name, origin=origin_of(made_from))


def write_model_card(
    folder: Path, *, name: str = "", origin: Origin | None = None, scores: Sequence[Report] = ()
) -> bool:
    """Write ``README.md`` into a saved encoder; return False where its author wrote or took over the card.

    Args:
        folder: The saved encoder.
        name: What loads the encoder: hub id or folder; "" for the folder's name.
        origin: Where it comes from; None for what its manifest says.
        scores: Results of ``evaluate``.

    Raises:
        ContractError: The folder has no readable contract.
    """
    if is_authors_card(folder / CARD_FILE):
        return False
    if (saved := saved_contract(folder)) is None:
        raise ContractError(f"{folder} has no {CONTRACT_FILE}; give a model that llama2vec saved")
    contract = read_object(folder / CONTRACT_FILE) or {}
    origin, name = origin or origin_of(str(folder)), name or folder.resolve().name
    encoder, ids = contract["encoder"], contract["token_ids"]
    sides: tuple[Side, ...] = ("query", "passage")
    pools_slots = encoder["pooling"] == "slots"
    config = load_model_config(str(folder.resolve())).get_text_config()
    card = ModelCard.from_template(
        _metadata(origin, opens_elsewhere=not _llm_of_compact(folder)),
        template_path=str(_TEMPLATE),
        mark=CARD_MARK,
        quoted_name=json.dumps(name, ensure_ascii=False),
        title=" ".join((name.rstrip("/").rpartition("/")[2] or name).split()),
        origin=origin,
        llm=_llm_of_compact(folder),
        stages={stage: bool(origin.of_stage(stage)) for stage in ("adapt", "finetune")},
        **_widths(origin, int(config.hidden_size)),
        dtype=contract["dtype"],
        encoder=encoder,
        stacks=stacks_of(saved, config.model_type),
        layers=encoder.get("layers", 1),
        prefixes={
            encoder[f"{side}_prompt"]: ids.get("next_prefix", ids["prefix"])
            if encoder[f"{side}_prompt"] == "next"
            else ids["prefix"]
            for side in sides
        },
        suffixes={
            encoder[f"{side}_prompt"]: ids["suffixes"][encoder[f"{side}_prompt"]] if pools_slots else []
            for side in sides
        },
        pooled=f"state[0, -{ids['slots']}:]" if pools_slots else f"state[0, {len(ids['prefix'])}:]",
        contract=contract,
        wording={"self": contract["prompts"]["self_prompt"], "next": contract["prompts"]["next_prompt"]},
        slots=ids["slots"],
        words_before={side: prefix_words(contract, side) for side in sides},
        code=_code,
        data_of=_data,
        scores=scores,
    )
    with disk_errors(folder / CARD_FILE):
        write_atomic(folder / CARD_FILE, f"{str(card.content).strip()}\n".encode(), sweep=True)
    return True


def is_authors_card(path: Path) -> bool:
    """Return whether the card at ``path`` is its author's rather than llama2vec's; a folder or pipe always is."""
    if not path.is_file():
        return os.path.lexists(path)
    return CARD_MARK not in path.read_text(encoding="utf-8", errors="replace")


def _llm_of_compact(folder: Path) -> str:
    """Return the name of the LLM that a compact encoder completes; "" for an encoder with weights of its own."""
    adapter = read_object(folder / ADAPTER_CONFIG) if (folder / COMPACT_ADAPTER).is_file() else None
    return str((adapter or {}).get("base_model_name_or_path") or "")


def _metadata(origin: Origin, *, opens_elsewhere: bool) -> ModelCardData:
    texts = [manifest.get("settings", {}).get("text", {}) for manifest in origin.of_stage("adapt")]
    return ModelCardData(
        library_name="sentence-transformers" if opens_elsewhere else "llama2vec",
        pipeline_tag="sentence-similarity",
        tags=_TAGS if opens_elsewhere else _TAGS[1:],
        base_model=origin.hub_base or None,
        license=origin.license or None,
        language=sorted({str(text["language"]) for text in texts if text.get("language")}) or None,
    )


def _widths(origin: Origin, whole: int) -> dict[str, Any]:
    """Return the width of the vectors, and the smaller ones that the last fine-tuning trained too."""
    last: Manifest = next(reversed(origin.of_stage("finetune")), {})
    given = last.get("settings", {}).get("contrastive", {}).get("dimensions") or []
    return {"dimension": whole, "widths": sorted({width for width in given if width < whole})}


def _data(manifest: Manifest) -> str:
    """Name the inputs and their fingerprint, without the folders of this machine."""
    settings = manifest.get("settings", {})
    sources = settings.get("data", {}).get("sources") or settings.get("text", {}).get("corpus") or []
    names = [sources] if isinstance(sources, str) else list(sources)
    shown = ", ".join(_code(name if name.startswith(("hf:", "ir:")) else Path(name).name) for name in names)
    prints = ", ".join(str(value)[:12] for value in manifest.get("inputs", {}).values())
    return f"{shown} (fingerprint {_code(prints)})" if prints else shown


def _code(text: str) -> str:
    """Show a text as code, with invisible characters written out: a line break as ``\\n``.

    >>> _code("\\nThe sentence: ")
    '`\\\\nThe sentence: `'
    """
    return f"`{json.dumps(str(text), ensure_ascii=False)[1:-1]}`".replace("|", r"\|")
