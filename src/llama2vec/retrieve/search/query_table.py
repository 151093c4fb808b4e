"""Queries without the model: a table with one vector for each token of its vocabulary.

A query's vector is the mean of its tokens' rows, brought to unit length, so a query takes a lookup instead of a pass
through the model (the static query side of LightRetriever, arXiv 2505.12260). The passages keep the vectors of the
model: the rows are fitted to the vectors that the model gives to sample queries, and the table carries its contract.

A table opens without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama2vec.artifact import claim, folder_kind, read_object
from llama2vec.errors import DataError, MissingDependencyError, ModelError
from llama2vec.files import file_sha256, write_json
from llama2vec.manifest import sealed, unsealed
from llama2vec.model.lengths import Cut
from llama2vec.model.prompt import may_be_longer
from llama2vec.model.source import QUERY_TABLE_FILE
from llama2vec.records import Query
from llama2vec.retrieve.store.reader import Vectors

ROWS_FILE, TOKENIZER_FILE = "rows.npy", "tokenizer.json"
_FORMAT = {"format": "llama2vec-query-table", "version": 1}


@dataclass(frozen=True, slots=True)
class QueryTable:
    """An encoder of queries that looks its tokens up."""

    rows: NDArray[Any]  # [V + 1, D] one for each token; the last one is the vector of a query without tokens
    tokenizer: Any  # A ``tokenizers.Tokenizer`` that cuts at the model's limit for queries
    contract_hash: str  # Hash of the contract of the model whose passages it searches
    facts: dict[str, Any]  # What it was fitted to, and how well

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return int(self.rows.shape[1])

    def encode_queries(self, queries: Sequence[Query | str] | Query | str, /) -> Vectors:
        """Return [Q, D] unit vectors, float32; [D] for a single query."""
        if isinstance(queries, str | Query):
            return np.asarray(self.encode_queries([queries])[0])
        texts = [_checked(query.text if isinstance(query, Query) else query) for query in queries]
        found = np.empty((len(texts), self.dimension), dtype=np.float32)
        for place, encoding in enumerate(self.tokenizer.encode_batch(texts, add_special_tokens=False)):
            ids = encoding.ids or [len(self.rows) - 1]
            found[place] = self.rows[ids].astype(np.float32).mean(axis=0)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return np.asarray(found / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)

    def cut_queries(self, queries: Sequence[Query]) -> Cut:
        """Return how many queries are longer than the model, and so the table, reads of them."""
        most = self.facts["max_tokens"]
        long = [_checked(query.text) for query in queries if may_be_longer(query.text, most)]
        found = self.tokenizer.encode_batch(long, add_special_tokens=False) if long else []
        return Cut(sum(bool(one.overflowing) for one in found), most)

    @classmethod
    def load(cls, folder: str | Path) -> QueryTable:
        """Open a saved table; its rows stay on the disk until a query needs them.

        Raises:
            ModelError: The folder holds no table, or a damaged one.
        """
        folder = Path(folder)
        facts = unsealed(read_object(folder / QUERY_TABLE_FILE) or {})
        if not facts or facts.get("format") != _FORMAT["format"]:
            raise ModelError(f"{folder / QUERY_TABLE_FILE} is missing or damaged; make the table again with `distill`")
        if facts["version"] != _FORMAT["version"]:
            raise ModelError(f"{folder}: a table of version {facts['version']}; make it again with `distill`")
        for name, expected in facts["sha256"].items():
            if not (folder / name).is_file() or file_sha256(folder / name) != expected:
                raise ModelError(f"{folder / name} is missing or damaged; make the table again with `distill`")
        tokenizer = _read_tokenizer(folder / TOKENIZER_FILE, facts["max_tokens"])
        rows = np.load(folder / ROWS_FILE, mmap_mode="r", allow_pickle=False)
        return cls(rows, tokenizer, facts["contract_hash"], facts)


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"a query holds half of a surrogate pair at character {error.start + 1}; repair or remove it"
        ) from None
    return text


def is_query_table(path: str | Path) -> bool:
    """Tell whether a path is the folder of a table."""
    return (Path(path) / QUERY_TABLE_FILE).is_file()


def _read_tokenizer(path: Path, max_tokens: int) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependencyError("a query table needs tokenizers; pip install tokenizers") from error
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


QUERY_TABLE = folder_kind("a query table", QUERY_TABLE_FILE, _FORMAT, (QUERY_TABLE_FILE, ROWS_FILE, TOKENIZER_FILE))


def save_query_table(
    encoder: Any, texts: Sequence[str], output: str | Path, *, seed: int = 0, overwrite: bool = False
) -> QueryTable:
    """Fit a table to an encoder's vectors of sample queries, and save it.

    Args:
        encoder: An :class:`~llama2vec.model.encoder.Encoder` with a fast tokenizer.
        texts: Sample queries, the more and the more alike to the later ones the better; 20,000 are a good number.
        output: The folder to write.
        seed: Chooses the twentieth of the texts (1,000 at most) that measures the table and is not fitted.
        overwrite: Replace a table in ``output``.

    Raises:
        ModelError: The tokenizer cannot be saved for use without transformers, or there are fewer than 20 texts.
        OutputExistsError: ``output`` holds something else, or lies in the model's folder.
    """
    from llama2vec.manifest import digest
    from llama2vec.retrieve.search.table_fitting import fit_table

    texts = sorted({text for text in texts if text.strip()})
    if len(texts) < 20:
        raise ModelError(f"{len(texts)} different sample queries are too few to fit a table; give 20 or more")
    if not encoder.backbone.tokenizer.is_fast:
        raise ModelError(
            f"{encoder.spec.title}: a table needs a fast tokenizer (tokenizer.json); choose a model with one"
        )
    made = {"contract_hash": encoder.contract_hash, "texts": digest(list(texts)), "seed": seed}
    with claim(Path(output), QUERY_TABLE, made, overwrite=overwrite, inputs=[encoder.spec.path or None]) as work:
        if not work.is_finished:
            # Lengths count in the tokens of the text alone, as the encoder counts them.
            _, max_tokens = encoder.reading("query")
            folder = work.begin()
            encoder.backbone.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE))
            tokenizer = _read_tokenizer(folder / TOKENIZER_FILE, max_tokens)
            fitted = fit_table(encoder, tokenizer, texts, seed)
            np.save(folder / ROWS_FILE, fitted.rows.astype(np.float16))
            hashes = {name: file_sha256(folder / name) for name in (ROWS_FILE, TOKENIZER_FILE)}
            facts = {"contract_hash": encoder.contract_hash, "max_tokens": max_tokens, "model": encoder.spec.title}
            facts |= {"texts": len(texts), "cosine": fitted.cosine, "ridge": fitted.ridge, "sha256": hashes}
            write_json(folder / QUERY_TABLE_FILE, sealed({**_FORMAT, "made": made, **facts}))
            work.finish()
    return QueryTable.load(output)
