"""Saved encoders on the Hugging Face Hub: put there whole, and fetched with their contract."""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from llama2vec.errors import ModelError
from llama2vec.model.backbone import resolve_model
from llama2vec.model.contract import CONTRACT_FILE
from llama2vec.model.publish.model_card import is_own_card
from llama2vec.model.publish.origin import CARD_FILE

logger = logging.getLogger(__name__)


def local_copy(name: str) -> str:
    """Return the folder that an encoder on the hub was downloaded to; any other model's name as it is."""
    source = resolve_model(name)
    if source.gguf_file or Path(source.location).is_dir():
        return name
    try:
        contract = Path(hf_hub_download(source.location, CONTRACT_FILE))
    except LocalEntryNotFoundError:
        logger.warning("%s: the hub cannot be asked for %s; a contract there is not followed", name, CONTRACT_FILE)
        return name
    except (HfHubHTTPError, HFValidationError):
        # No contract, or no such model: whoever loads it says so.
        return name
    # The cache names a snapshot's folder after its commit: all files of one version.
    return str(snapshot_download(source.location, revision=contract.parent.name, ignore_patterns=["*/*"]))


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
