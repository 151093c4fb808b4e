"""Open a saved encoder with sentence-transformers without trusting code that came with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama2vec.errors import ContractError, MissingDependencyError
from llama2vec.manifest import package_version
from llama2vec.model.publish.hub import local_copy
from llama2vec.model.publish.publishing import MODULE_FILE, module_source

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def load_sentence_transformer(name: str | Path, **options: Any) -> SentenceTransformer:
    """Return a saved encoder as a model of sentence-transformers.

    sentence-transformers runs the module of a model's folder only with ``trust_remote_code=True``. Here it is trusted
    where it is, byte for byte, the file of this package.

    Args:
        name: Folder or hub id of a saved encoder.
        options: Of ``SentenceTransformer``: ``device``, ``truncate_dim``, ``model_kwargs``, …

    Raises:
        MissingDependencyError: sentence-transformers is not installed.
        ContractError: The folder's module is missing, or is not this version's.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingDependencyError(
            "this needs sentence-transformers; pip install 'llama2vec[sentence-transformers]'"
        ) from error
    folder = Path(local_copy(str(name)))
    module = folder / MODULE_FILE
    if not module.is_file():
        raise ContractError(f"{folder}: there is no {MODULE_FILE}; load and save the model again with llama2vec")
    if module.read_bytes() != module_source():
        raise ContractError(
            f"{module} is not that of llama2vec {package_version()}; load and save the model again, or read the file "
            "and open the folder with SentenceTransformer(…, trust_remote_code=True)"
        )
    return SentenceTransformer(str(folder), trust_remote_code=True, **options)
