"""Turn any causal LLM into a dense retriever: Llama2Vec (arXiv 2312.15503)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama2vec.adapt.settings import AdaptConfig as AdaptConfig
    from llama2vec.adapt.stage import adapt_model as adapt_model
    from llama2vec.data.corpus.passages import read_passages as read_passages
    from llama2vec.data.settings import PassageSettings as PassageSettings
    from llama2vec.errors import Llama2VecError as Llama2VecError
    from llama2vec.finetune.settings import FinetuneConfig as FinetuneConfig
    from llama2vec.finetune.stage import finetune_model as finetune_model
    from llama2vec.model.encoder import Encoder as Encoder
    from llama2vec.records import Passage as Passage
    from llama2vec.records import Query as Query
    from llama2vec.retrieve.index.folder import build_index as build_index
    from llama2vec.retrieve.index.folder import open_index as open_index
    from llama2vec.retrieve.search.retriever import Retriever as Retriever
    from llama2vec.retrieve.store.reader import VectorStore as VectorStore
    from llama2vec.score.metrics import evaluate_run as evaluate_run

__version__ = "0.1.0"

# Resolved on first use, so that `import llama2vec.data` never imports torch.
_HOMES = {
    "AdaptConfig": "llama2vec.adapt.settings",
    "Encoder": "llama2vec.model.encoder",
    "FinetuneConfig": "llama2vec.finetune.settings",
    "Llama2VecError": "llama2vec.errors",
    "Passage": "llama2vec.records",
    "PassageSettings": "llama2vec.data.settings",
    "Query": "llama2vec.records",
    "Retriever": "llama2vec.retrieve.search.retriever",
    "VectorStore": "llama2vec.retrieve.store.reader",
    "adapt_model": "llama2vec.adapt.stage",
    "build_index": "llama2vec.retrieve.index.folder",
    "evaluate_run": "llama2vec.score.metrics",
    "finetune_model": "llama2vec.finetune.stage",
    "open_index": "llama2vec.retrieve.index.folder",
    "read_passages": "llama2vec.data.corpus.passages",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'llama2vec' has no attribute '{name}'")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
