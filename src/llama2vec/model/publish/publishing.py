"""What opens a saved encoder to others: files for sentence-transformers, and the model card."""

from __future__ import annotations

from pathlib import Path

from llama2vec.files import write_atomic, write_json
from llama2vec.model.publish.model_card import is_own_card, write_model_card
from llama2vec.model.publish.origin import CARD_FILE, origin_of

MODULE_FILE = "portable_encoder.py"
# As in portable_encoder.py, which cannot be imported without sentence-transformers.
_QUERY_MARK = "[llama2vec:query]"


def add_public_files(folder: Path, destination: Path, made_from: str) -> None:
    """Complete a saved encoder in ``folder``, on its way to ``destination``; a card there with an author stays."""
    write_sentence_transformers_files(folder)
    if not is_own_card(destination / CARD_FILE):
        write_model_card(folder, name=destination.resolve().name, origin=origin_of(made_from))


def write_sentence_transformers_files(folder: Path) -> None:
    """Let ``SentenceTransformer(folder, trust_remote_code=True)`` open a saved encoder, also without llama2vec."""
    write_atomic(folder / MODULE_FILE, module_source())
    settings = {
        "model_type": "SentenceTransformer",
        "prompts": {"query": _QUERY_MARK, "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    write_json(folder / "config_sentence_transformers.json", settings)
    module = {"idx": 0, "name": "0", "path": "", "type": f"{Path(MODULE_FILE).stem}.PortableEncoder"}
    # Last: modules.json is what makes the folder a model of sentence-transformers.
    write_json(folder / "modules.json", [module])


def module_source() -> bytes:
    """Return the file of this package that sentence-transformers runs."""
    return Path(__file__).with_name(MODULE_FILE).read_bytes()
