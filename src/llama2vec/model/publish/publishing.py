"""What opens a saved encoder to others: files for sentence-transformers, and the model card."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from llama2vec.artifact import read_object
from llama2vec.errors import ContractError
from llama2vec.files import disk_errors, write_atomic, write_json
from llama2vec.model.contract import CONTRACT_FILE, Contract, prefix_words, saved_contract
from llama2vec.model.publish.origin import CARD_FILE, Manifest, Origin, origin_of
from llama2vec.model.publish.prompted_tokenizer import surroundings
from llama2vec.model.publish.stacks import stacks_of
from llama2vec.model.tokenizer import load_model_config
from llama2vec.records import Report, Side

CARD_MARK = "<!-- Written by llama2vec. Remove this line and the card is yours: it is not written over again. -->"
MODULE_FILE = "portable_encoder.py"
MODULES_FILE = "modules.json"
_ST_SETTINGS = "config_sentence_transformers.json"
_LENGTH_FILE, _POOLING, _NORM = "sentence_bert_config.json", "1_Pooling", "2_Normalize"
PUBLIC_FILES = (MODULE_FILE, MODULES_FILE, _ST_SETTINGS, _LENGTH_FILE, f"{_POOLING}/config.json")
"""What a saved encoder may hold for sentence-transformers, and for servers that read its files."""
MODULE_CLASS = f"{Path(MODULE_FILE).stem}.PortableEncoder"
# Names under which every release of sentence-transformers, and the servers that read its files, know them.
_MODULES = "sentence_transformers.models"
STOCK_MODULES = (
    (f"{_MODULES}.Transformer", ""),
    (f"{_MODULES}.Pooling", _POOLING),
    (f"{_MODULES}.Normalize", _NORM),
)
"""Class and folder of each module that a servable encoder names."""
# As in portable_encoder.py, which cannot be imported without sentence-transformers.
_QUERY_MARK = "[llama2vec:query]"
_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_TAGS = ["sentence-transformers", "sentence-similarity", "feature-extraction", "dense-retrieval", "llama2vec"]


def add_public_files(folder: Path, destination: Path, made_from: str) -> None:
    """Complete a saved encoder in ``folder``, on its way to ``destination``; a card there with an author stays."""
    write_sentence_transformers_files(folder)
    if not is_authors_card(destination / CARD_FILE):
        write_model_card(folder, name=destination.resolve().name, origin=origin_of(made_from))


def write_sentence_transformers_files(folder: Path) -> None:
    """Let ``SentenceTransformer(folder, trust_remote_code=True)`` open a saved encoder, also without llama2vec.

    A servable one opens without ``trust_remote_code``: it names only modules of sentence-transformers, and other
    servers read the pooling from the same files.
    """
    contract = saved_contract(folder)
    servable = contract is not None and contract.encoder.servable
    settings = {
        "model_type": "SentenceTransformer",
        "prompts": {"query": "" if servable else _QUERY_MARK, "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    write_json(folder / _ST_SETTINGS, settings)
    if servable and contract is not None:
        _write_pooling(folder, contract)
    else:
        write_atomic(folder / MODULE_FILE, module_source())
    parts = STOCK_MODULES if servable else ((MODULE_CLASS, ""),)
    modules = [{"idx": row, "name": str(row), "path": path, "type": kind} for row, (kind, path) in enumerate(parts)]
    # Last: modules.json is what makes the folder a model of sentence-transformers.
    write_json(folder / MODULES_FILE, modules)


def _write_pooling(folder: Path, contract: Contract) -> None:
    """Write what other programs read of a servable contract: its length limit and how it pools."""
    around = sum(map(len, surroundings(contract, "passage")))
    most = contract.encoder.passage_max_tokens + around
    write_json(folder / _LENGTH_FILE, {"max_seq_length": most, "do_lower_case": False})
    modes = {f"pooling_mode_{name}": False for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
    chosen = "pooling_mode_mean_tokens" if contract.encoder.pooling == "mean" else "pooling_mode_lasttoken"
    width = int(load_model_config(str(folder.resolve())).get_text_config().hidden_size)
    (folder / _POOLING).mkdir(exist_ok=True)
    write_json(
        folder / _POOLING / "config.json",
        {"word_embedding_dimension": width, **modes, chosen: True, "include_prompt": True},
    )


def module_source() -> bytes:
    """Return the file of this package that sentence-transformers runs."""
    return Path(__file__).with_name(MODULE_FILE).read_bytes()


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
        _metadata(origin),
        template_path=str(_TEMPLATE),
        mark=CARD_MARK,
        quoted_name=json.dumps(name, ensure_ascii=False),
        title=" ".join((name.rstrip("/").rpartition("/")[2] or name).split()),
        origin=origin,
        stages={stage: bool(origin.of_stage(stage)) for stage in ("adapt", "finetune")},
        dimension=int(config.hidden_size),
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
