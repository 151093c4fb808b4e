"""Saved encoders on the Hugging Face Hub: put there whole, and fetched with their contract."""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import HfApi

from llama2vec.errors import ModelError
from llama2vec.model.publish.model_card import is_own_card
from llama2vec.model.publish.origin import CARD_FILE
from llama2vec.model.source import fetched, resolve_model

logger = logging.getLogger(__name__)


def local_copy(name: str) -> str:
    """Return the folder that an encoder on the hub was downloaded to; any other model's name as it is.

    Raises:
        ModelNotFoundError: The hub has no such model, or cannot be reached and the cache has none either.
    """
    source = resolve_model(name)
    return name if source.hub_id is None else fetched(source).location


def upload_encoder(folder: Path, repo_id: str, *, private: bool, token: str | None) -> str:
    """Upload a saved encoder; a model card that somebody wrote on the hub stays.

    Args:
        folder: The saved encoder.
        repo_id: ``user/name``; the repository is made where there is none.
        private: Whether a new repository is private.
        token: Of the hub; None = the one that ``hf auth login`` left.

    Returns:
        The address of the commit.

    Raises:
        ModelError: The hub refused, or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        kept = []
        if api.file_exists(repo_id, CARD_FILE) and is_own_card(Path(api.hf_hub_download(repo_id, CARD_FILE))):
            kept = [CARD_FILE]
        message = "Add llama2vec encoder"
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, ignore_patterns=kept))
    # A connection that fails raises what the HTTP library behind the client raises; that one changes.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{repo_id}: the hub did not take the upload ({reason}); check the name, the network and `hf auth login`"
        ) from error
