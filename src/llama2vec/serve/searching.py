"""Model and index, opened for the service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llama2vec.retrieve.index import open_index
from llama2vec.retrieve.modes import Retriever, vocabulary_view
from llama2vec.retrieve.sparse import SparseIndex
from llama2vec.serve.model import PreparedQuestions, ServedModel
from llama2vec.serve.service import Loaded

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder


def open_for_search(folder: Path, encoder: Encoder, name: str) -> Loaded:
    """Return what serves an index, with all modes that it carries, and its encoder.

    Args:
        folder: What `llama2vec index` or `encode` wrote.
        encoder: The model that encoded the corpus.
        name: What clients call it.

    Raises:
        StoreError: The index is damaged, or was made with another encoder.
    """
    words = None
    if (folder / "sparse").is_dir():
        language = SparseIndex.open(folder / "sparse", open_index(folder).store).language
        words = vocabulary_view(encoder, language)
    questions = PreparedQuestions(encoder.contract_hash, words)
    retriever = Retriever.open(folder, questions, words=questions if words else None)
    return Loaded(ServedModel(encoder, name, words), retriever, questions)
