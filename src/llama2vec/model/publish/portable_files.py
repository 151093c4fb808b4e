"""Files by which sentence-transformers, and servers that read its files, open the folder of a saved encoder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from llama2vec.artifact import read_object
from llama2vec.errors import ContractError
from llama2vec.files import write_atomic, write_json
from llama2vec.model.contract import CONTRACT_FILE, Contract, saved_contract
from llama2vec.model.prompt import AFTER, BEFORE, processors_of
from llama2vec.model.publish.prompted_tokenizer import TOKENIZER_FILE, surroundings
from llama2vec.model.source import ModelSource

logger = logging.getLogger(__name__)

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
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    width = int(config.get_text_config().hidden_size)
    (folder / _POOLING).mkdir(exist_ok=True)
    write_json(
        folder / _POOLING / "config.json",
        {"word_embedding_dimension": width, **modes, chosen: True, "include_prompt": True},
    )


def check_other_reading(source: ModelSource) -> None:
    """Warn that a folder of sentence-transformers, which has no contract, is about to be read as a plain LLM.

    Raises:
        ContractError: Its tokenizer holds the prompt of a servable encoder: sentence-transformers saved one again.
    """
    folder = Path(source.location)
    if source.gguf_file or source.carries_contract or not (folder / MODULES_FILE).is_file():
        return
    template = (read_object(folder / TOKENIZER_FILE) or {}).get("post_processor")
    if any({BEFORE, AFTER} & set(part.get("special_tokens") or ()) for part in processors_of(template)):
        raise ContractError(
            f"{source.name}: a servable encoder that sentence-transformers saved again, without its {CONTRACT_FILE}; "
            "open it with sentence-transformers, or give the folder that llama2vec saved"
        )
    logger.warning(
        "%s is a model of sentence-transformers%s; it is read as a plain LLM, so its vectors differ from those there",
        source.name, _own_pooling(folder),
    )  # fmt: skip


def _own_pooling(folder: Path) -> str:
    """Return the pooling that a folder names, in words; "" = it names none."""
    settings = read_object(folder / _POOLING / "config.json") or {}
    named = settings.get("pooling_mode")  # Of sentence-transformers 6; before, each had a key of its own.
    modes = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    old = [
        key.removeprefix("pooling_mode_")
        for key, is_on in settings.items()
        if key.startswith("pooling_mode_") and is_on
    ]
    words = " and ".join(map(str, [*modes, *old]))
    return f" with pooling {words}" if words else ""


def module_source() -> bytes:
    """Return the file of this package that sentence-transformers runs."""
    return Path(__file__).with_name(MODULE_FILE).read_bytes()
