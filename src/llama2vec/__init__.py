"""Turn any causal LLM into a dense retriever: Llama2Vec (arXiv 2312.15503)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama2vec.adapt.settings import AdaptConfig
    from llama2vec.adapt.train import adapt_model
    from llama2vec.data.corpus import read_passages
    from llama2vec.errors import Llama2VecError
    from llama2vec.finetune.settings import FinetuneConfig
    from llama2vec.finetune.train import finetune_model
    from llama2vec.model.encoder import Encoder
    from llama2vec.records import Passage, Query
    from llama2vec.retrieve.index import build_index, open_index
    from llama2vec.retrieve.retriever import Retriever
    from llama2vec.retrieve.store import VectorStore
    from llama2vec.score.metrics import evaluate_run

__version__ = "0.1.0"

# Resolved on first use, so that `import llama2vec.data` never imports torch.
_HOMES = {
    "adapt_model": "llama2vec.adapt.train",
    "AdaptConfig": "llama2vec.adapt.settings",
    "FinetuneConfig": "llama2vec.finetune.settings",
    "read_passages": "llama2vec.data.corpus",
    "Llama2VecError": "llama2vec.errors",
    "evaluate_run": "llama2vec.score.metrics",
    "finetune_model": "llama2vec.finetune.train",
    "Encoder": "llama2vec.model.encoder",
    "Passage": "llama2vec.records",
    "Query": "llama2vec.records",
    "build_index": "llama2vec.retrieve.index",
    "open_index": "llama2vec.retrieve.index",
    "Retriever": "llama2vec.retrieve.retriever",
    "VectorStore": "llama2vec.retrieve.store",
}

__all__ = [
    "AdaptConfig",
    "Encoder",
    "FinetuneConfig",
    "Llama2VecError",
    "Passage",
    "Query",
    "Retriever",
    "VectorStore",
    "adapt_model",
    "build_index",
    "evaluate_run",
    "finetune_model",
    "open_index",
    "read_passages",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'llama2vec' has no attribute '{name}'")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
