"""The model card: what a saved encoder is, how to use it anywhere, how it was trained and what decides a vector."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import AutoConfig

from llama2vec.artifact import read_object
from llama2vec.errors import ContractError
from llama2vec.files import write_atomic
from llama2vec.model.contract import CONTRACT_FILE, saved_settings
from llama2vec.model.publish.origin import CARD_FILE, Manifest, Origin, origin_of
from llama2vec.records import Report

CARD_MARK = "<!-- Written by llama2vec. Remove this line and the card is yours: it is not written over again. -->"
_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_TAGS = ["sentence-transformers", "sentence-similarity", "feature-extraction", "dense-retrieval", "llama2vec"]


def write_model_card(
    folder: Path, *, name: str = "", origin: Origin | None = None, scores: Sequence[Report] = ()
) -> bool:
    """Write ``README.md`` into a saved encoder, unless its author wrote or took over the card.

    Args:
        folder: The saved encoder.
        name: What loads the encoder: hub id or folder; "" for the folder's name.
        origin: Where it comes from; None for what its manifest says.
        scores: Results of ``evaluate``.

    Returns:
        Whether the card was written.

    Raises:
        ContractError: The folder has no readable contract.
    """
    if is_own_card(folder / CARD_FILE):
        return False
    if saved_settings(folder) is None:
        raise ContractError(f"{folder} has no {CONTRACT_FILE}; give a model that llama2vec saved")
    text = model_card(
        read_object(folder / CONTRACT_FILE) or {},
        origin or origin_of(str(folder)),
        name=name or folder.resolve().name,
        dimension=int(AutoConfig.from_pretrained(folder).get_text_config().hidden_size),
        scores=scores,
    )
    write_atomic(folder / CARD_FILE, text.encode())
    return True


def is_own_card(path: Path) -> bool:
    """Return whether the card at ``path`` belongs to its author rather than to llama2vec."""
    return path.is_file() and CARD_MARK not in path.read_text(encoding="utf-8", errors="replace")


def model_card(
    contract: Mapping[str, Any], origin: Origin, *, name: str, dimension: int, scores: Sequence[Report] = ()
) -> str:
    """Return the model card of a saved encoder as Markdown with the hub's front matter.

    Args:
        contract: Content of ``llama2vec.json``.
        origin: Where the model comes from.
        name: What loads the encoder: hub id or folder.
        dimension: D, the width of a vector.
        scores: Results of ``evaluate``.
    """
    encoder, ids = contract["encoder"], contract["token_ids"]
    pools_slots = encoder["pooling"] == "slots"
    card = ModelCard.from_template(
        _metadata(origin),
        template_path=str(_TEMPLATE),
        mark=CARD_MARK,
        quoted_name=json.dumps(name, ensure_ascii=False),
        title=" ".join((name.rstrip("/").rpartition("/")[2] or name).split()),
        origin=origin,
        stages={stage: bool(origin.of_stage(stage)) for stage in ("adapt", "finetune")},
        dimension=dimension,
        dtype=contract["dtype"],
        encoder=encoder,
        layers=encoder.get("layers", 1),
        prefix=ids["prefix"],
        suffixes={
            encoder[f"{side}_prompt"]: ids["suffixes"][encoder[f"{side}_prompt"]] if pools_slots else []
            for side in ("query", "passage")
        },
        pooled=f"state[0, -{ids['slots']}:]" if pools_slots else f"state[0, {len(ids['prefix'])}:]",
        contract=contract,
        wording={"self": contract["prompts"]["self_prompt"], "next": contract["prompts"]["next_prompt"]},
        slots=ids["slots"],
        code=_code,
        data_of=_data,
        scores=scores,
    )
    return f"{str(card.content).strip()}\n"


def _metadata(origin: Origin) -> ModelCardData:
    texts = [manifest.get("settings", {}).get("text", {}) for manifest in origin.of_stage("adapt")]
    return ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=_TAGS,
        base_model=origin.hub_base or None,
        license=origin.license or None,
        language=sorted({str(text["language"]) for text in texts if text.get("language")}) or None,
    )


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
