"""Files by which sentence-transformers, and servers that read its files, open the folder of a saved encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama2vec.files import write_atomic, write_json
from llama2vec.model.contract import Contract, saved_contract
from llama2vec.model.publish.prompted_tokenizer import surroundings

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


def module_source() -> bytes:
    """Return the file of this package that sentence-transformers runs."""
    return Path(__file__).with_name(MODULE_FILE).read_bytes()
