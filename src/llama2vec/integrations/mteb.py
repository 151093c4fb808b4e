"""A saved encoder under the Massive Text Embedding Benchmark (MTEB), through its public encoder interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama2vec.config import ModelSettings
from llama2vec.errors import MissingDependencyError
from llama2vec.model.encoder import Encoder

try:
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ScoringFunction
    from mteb.types import PromptType
except ImportError as _error:
    raise MissingDependencyError("this needs mteb; run: pip install 'llama2vec[mteb]'") from _error


class MtebEncoder(AbsEncoder):  # type: ignore[misc]
    """A model for ``mteb.evaluate``: queries are embedded as queries, every other text as a passage.

    Task instructions are ignored: the model was trained with its own prompts.

    Args:
        model_name: Folder or hub id of a saved encoder; MTEB shows it.
        revision: Ignored; MTEB passes the commit of a hub id, and the contract says which model it is.
        device: As in :class:`ModelSettings`; None = ``auto``.
        dtype: As in :class:`ModelSettings`: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        path: What to load where ``model_name`` is only the name to show.
        encoder: An encoder that is already loaded.
    """

    def __init__(
        self,
        model_name: str | Path,
        revision: str | None = None,
        *,
        device: str | None = None,
        dtype: str = "auto",
        path: str = "",
        encoder: Encoder | None = None,
        **_: Any,
    ) -> None:
        location = path or str(model_name)
        settings = ModelSettings.model_validate({"device": device or "auto", "dtype": dtype})
        self.encoder = encoder or Encoder.load(location, settings=settings)
        self.mteb_model_meta = model_meta(self.encoder, location)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[str]]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **_: Any,
    ) -> NDArray[np.float32]:
        """Return [N, D] float32 unit vectors of the ``text`` of every batch."""
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt_type == PromptType.query:
            return self.encoder.encode_queries(texts)
        return self.encoder.encode_passages(texts)


def model_meta(encoder: Encoder, name: str) -> ModelMeta:
    """Describe an encoder to MTEB; its revision is the contract's hash, so results of two models never mix."""
    model, settings = encoder.backbone.model, encoder.contract.encoder
    folder = Path(name)
    known = {
        "loader": MtebEncoder,
        "loader_kwargs": {"path": name},
        "name": f"llama2vec/{folder.resolve().name}" if folder.exists() or "/" not in name else name,
        "revision": encoder.contract_hash,
        "n_parameters": int(model.num_parameters()),
        "n_embedding_parameters": int(model.get_input_embeddings().weight.numel()),
        "memory_usage_mb": model.get_memory_footprint() / 2**20,
        "max_tokens": settings.passage_max_tokens,
        "embed_dim": encoder.dimension,
        "framework": ["PyTorch", "Transformers"],
        "similarity_fn_name": ScoringFunction.COSINE,
        "use_instructions": True,
    }
    return ModelMeta.create_empty(known)
