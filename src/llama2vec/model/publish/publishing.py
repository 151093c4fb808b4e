"""What opens a saved encoder to others: files for sentence-transformers, the model card, the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

from llama2vec.errors import ModelError
from llama2vec.files import write_atomic, write_json
from llama2vec.model.contract import CONTRACT_FILE
from llama2vec.model.publish.model_card import is_own_card, write_model_card
from llama2vec.model.publish.origin import CARD_FILE, origin_of
from llama2vec.model.source import ModelSource

MODULE_FILE = "portable_encoder.py"
# As in portable_encoder.py, which cannot be imported without sentence-transformers.
_QUERY_MARK = "[llama2vec:query]"


def add_public_files(folder: Path, destination: Path, made_from: str) -> None:
    """Complete a saved encoder.

    Args:
        folder: The encoder's files, contract included, before they are moved.
        destination: Where they go; a card with an author of its own stays.
        made_from: Name of the model that was loaded.
    """
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


def upload_encoder(folder: Path, repo_id: str, source: ModelSource, *, private: bool, token: str | None) -> str:
    """Upload a saved encoder; a model card with an author, beside the loaded model or on the hub, stays.

    Args:
        folder: The saved encoder, whose card is rewritten.
        repo_id: ``user/name``; created if missing.
        source: The model it was loaded from.
        private: Whether a new repository is private.
        token: Of the hub; None for the one that ``hf auth login`` left.

    Returns:
        The address of the commit.

    Raises:
        ModelError: The hub refused, or cannot be reached.
    """
    card = Path(source.location) / CARD_FILE
    if (card.parent / CONTRACT_FILE).is_file() and is_own_card(card):
        write_atomic(folder / CARD_FILE, card.read_bytes())
    else:
        write_model_card(folder, name=repo_id, origin=origin_of(source.name))
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        there = api.file_exists(repo_id, CARD_FILE) and is_own_card(Path(api.hf_hub_download(repo_id, CARD_FILE)))
        kept, message = [CARD_FILE] if there else [], "Add llama2vec encoder"
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, ignore_patterns=kept))
    # A failed connection raises an error of the client's HTTP library, which differs between releases.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{repo_id}: the hub did not take the upload ({reason}); check the name, the network and `hf auth login`"
        ) from error
