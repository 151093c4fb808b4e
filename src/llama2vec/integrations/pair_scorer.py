"""Models that score a query with a passage: cross-encoders, sentence-transformers, and encoders of llama2vec."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama2vec.artifact import read_object
from llama2vec.config import ModelSettings, load_config
from llama2vec.errors import MissingDependencyError, ModelError, ModelNotFoundError, one_line
from llama2vec.model.lengths import NOUNS
from llama2vec.model.loading import model_errors, quiet_transformers
from llama2vec.model.local import fetched
from llama2vec.model.source import ModelSource, resolve_model, weights_fingerprint
from llama2vec.records import Side
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

LLAMA2VEC, SENTENCE_TRANSFORMERS, CROSS_ENCODER = "llama2vec", "sentence-transformers", "cross-encoder"
_READ = (".json", ".safetensors", ".bin", ".model", ".txt")
_NOT_READ = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot"]


class PairScorer:
    """A model that scores pairs of a query and a passage; its weights are loaded when the first pair is scored.

    A cross-encoder reads both texts together, and its score is the raw output of its last layer (a logit). Any other
    model reads them apart, and the score is the cosine of their vectors.
    """

    def __init__(self, name: str, device: str = "auto", dtype: str = "auto") -> None:
        self.name, self._settings = name, load_config(ModelSettings, None, [f"device={device}", f"dtype={dtype}"])
        self.source = _located(name)
        self.kind = _kind(self.source)
        self.scored = 0
        # Hashes of what is longer than the model reads, since one text may come in many calls; pairs are passages here.
        self._cut: dict[Side, set[int]] = {"query": set(), "passage": set()}

    @property
    def fingerprint(self) -> str:
        """A hash of the files that decide the scores, wherever they lie."""
        files = sorted(Path(self.source.location).rglob("*"))
        return weights_fingerprint(file for file in files if file.suffix in _READ and file.is_file())

    @property
    def facts(self) -> dict[str, Any]:
        """Return its kind, and how many pairs it scored and how many different texts or pairs it did not read whole."""
        cut = {"cut": len(self._cut["passage"]), "cut_queries": len(self._cut["query"])}
        return {"kind": self.kind, "pairs": self.scored, **cut}

    def scores(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> list[NDArray[np.float32]]:
        """Return, for each of Q queries, the scores of its own passages; a text that stands twice is read once.

        Raises:
            MissingDependencyError: sentence-transformers is not installed.
            ModelError: The model cannot be loaded, or does not give one finite score a pair.
        """
        counts = [len(texts) for texts in passages]
        asked = [(query, text) for query, texts in zip(queries, passages, strict=True) for text in texts]
        pairs = list(dict.fromkeys(asked))
        found = self._scores(pairs) if pairs else np.zeros(0, np.float32)
        if found.shape != (len(pairs),):
            raise ModelError(
                f"{self.name}: gives {list(found.shape[1:])} numbers for a pair; one score is needed, so take a "
                "cross-encoder with a single label"
            )
        if not np.isfinite(found).all():
            raise ModelError(f"{self.name}: a score is not finite; choose another model or --device cpu")
        self.scored += len(pairs)
        score_of = dict(zip(pairs, found.tolist(), strict=True))
        flat = np.array([score_of[pair] for pair in asked], dtype=np.float32)
        return np.split(flat, np.cumsum(counts)[:-1]) if counts else []

    def warn_of_cut_texts(self) -> None:
        """Say how many texts were not read to their end."""
        for side, cut in self._cut.items():
            if cut:
                what = counted(len(cut), *(("pair", "pairs") if self.kind == CROSS_ENCODER else NOUNS[side]))
                logger.warning("%s: reads %d tokens and left out the end of %s", self.name, self._limit(side), what)

    def _limit(self, side: Side) -> int:
        """Most tokens of a query, and of a pair or passage; 0 = no limit."""
        if self.kind == LLAMA2VEC:
            return int(self._model.reading(side)[1])
        return int(self._model.max_seq_length or 0)

    def _note_cut(self, side: Side, *texts: Sequence[str]) -> None:
        """Remember which texts of one side, or pairs of two texts, are not read to their end."""
        if self._count_cut(side, *texts):
            each = zip(*texts, strict=True)
            self._cut[side] |= {hash(one) for one in each if self._count_cut(side, *([text] for text in one))}

    def _count_cut(self, side: Side, *texts: Sequence[str]) -> int:
        if self.kind == LLAMA2VEC:
            return int(self._model.cut(*texts, side).texts)
        limit, tokenizer = self._limit(side), self._model.tokenizer
        if not (limit and hasattr(tokenizer, "convert_tokens_to_ids")):
            return 0
        lengths = map(len, tokenizer(*map(list, texts), truncation=False, verbose=False)["input_ids"])
        return sum(length > limit for length in lengths)

    def _scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        if self.kind == CROSS_ENCODER:
            from torch.nn import Identity

            self._note_cut("passage", *zip(*pairs, strict=True))
            found = self._model.predict(
                pairs, activation_fn=Identity(), show_progress_bar=False, convert_to_numpy=False, convert_to_tensor=True
            )
            return np.asarray(found.float().cpu().numpy(), dtype=np.float32)
        queries, passages = (list(dict.fromkeys(texts)) for texts in zip(*pairs, strict=True))
        self._note_cut("query", queries)
        self._note_cut("passage", passages)
        vectors = self._vectors(queries, passages)
        places = [{text: place for place, text in enumerate(texts)} for texts in (queries, passages)]
        rows = [[place[pair[side]] for pair in pairs] for side, place in enumerate(places)]
        return np.asarray(np.einsum("nd,nd->n", vectors[0][rows[0]], vectors[1][rows[1]]), dtype=np.float32)

    def _vectors(self, queries: list[str], passages: list[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return unit vectors of both."""
        if self.kind == LLAMA2VEC:
            return self._model.encode_queries(queries), self._model.encode_passages(passages)
        options = {"normalize_embeddings": True, "show_progress_bar": False, "convert_to_tensor": True}
        encode = self._model.encode_query, self._model.encode_document
        made = (one(texts, **options) for one, texts in zip(encode, (queries, passages), strict=True))
        first, second = (np.asarray(vectors.float().cpu().numpy(), dtype=np.float32) for vectors in made)
        return first, second

    @cached_property
    def _model(self) -> Any:
        logger.info("loading %s as a %s model", self.name, self.kind)
        if self.kind == LLAMA2VEC:
            from llama2vec.model.encoder import Encoder

            return Encoder.load(self.name, settings=self._settings)
        try:
            from sentence_transformers import CrossEncoder, SentenceTransformer
        except ImportError as error:
            raise MissingDependencyError(
                f"{self.name}: needs sentence-transformers; run: pip install 'llama2vec[sentence-transformers]'"
            ) from error
        from llama2vec.model.device import choose_device

        load = CrossEncoder if self.kind == CROSS_ENCODER else SentenceTransformer
        dtype = self._settings.dtype
        options = {} if dtype == "auto" else {"model_kwargs": {"dtype": dtype}}
        with quiet_transformers(), model_errors(self.source):
            return load(
                self.source.location,
                device=str(choose_device(self._settings.device)),
                trust_remote_code=False,
                **options,
            )


def _located(name: str) -> ModelSource:
    """Find a model's folder; download one from the hub."""
    if Path(name).expanduser().is_dir():
        given = ModelSource(name, str(Path(name).expanduser()))
        return fetched(resolve_model(name)) if (Path(given.location) / "config.json").is_file() else given
    source = fetched(resolve_model(name))
    if source.hub_id is None or source.carries_contract:
        return source
    from huggingface_hub import snapshot_download

    try:
        return ModelSource(name, snapshot_download(source.hub_id, ignore_patterns=_NOT_READ), hub_id=source.hub_id)
    # A failed connection raises an error of the client's HTTP library, which differs between releases.
    except Exception as error:
        raise ModelNotFoundError(f"{name}: cannot be downloaded ({one_line(error)}); give a local folder") from None


def _kind(source: ModelSource) -> str:
    """Tell from its files which library opens a model, and how."""
    folder = Path(source.location)
    if source.carries_contract:
        return LLAMA2VEC
    config = read_object(folder / "config.json") or {}
    kind = (read_object(folder / "config_sentence_transformers.json") or {}).get("model_type")
    architectures = config.get("architectures") or [""]
    if kind == "CrossEncoder" or (kind is None and str(architectures[0]).endswith("ForSequenceClassification")):
        return CROSS_ENCODER
    if kind == "SentenceTransformer" or (kind is None and (folder / "modules.json").is_file()):
        return SENTENCE_TRANSFORMERS
    what = f"a {kind}" if kind else f"a {architectures[0] or 'model without a known architecture'}"
    raise ModelError(
        f"{source.name}: {what} scores no pairs; give a cross-encoder, a sentence-transformers model, or a model that "
        "llama2vec saved"
    )
