"""Fit the rows of a query table to an encoder's vectors of sample queries.

The mean of a query's rows should be the query's vector. That is linear in the rows, so they are found by ridge
regression: X [N, V] holds each text's token counts divided by its length, Y [N, D] the encoder's vectors. Tokens that
the samples lack need a row, too. So a first regression finds the linear map from the LLM's own token embeddings to Y,
which gives every token a row, and a second one fits what that leaves.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama2vec.data.text.words import count_words, word_spans
from llama2vec.terminal import ProgressReporter

Matrix = NDArray[np.float32]

_RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3)
_MAP_RIDGE = 1e-3
_STEPS = 40
_MOST_HELD_OUT = 1000
_BATCH = 512
_SHORTEST = 3  # Words of a run


@dataclass(frozen=True, slots=True)
class FittedTable:
    """A table and how well it does."""

    rows: Matrix  # [V + 1, D]; the last one is the vector of an empty query
    cosine: float  # Mean cosine to the encoder's vectors of the texts that were held out
    ridge: float  # How strongly rows are held to the map's


def fit_table(encoder: Any, tokenizer: Any, texts: Sequence[str], seed: int) -> FittedTable:
    """Return the table that is best on a held-out twentieth of the texts.

    Args:
        encoder: Gives the vectors, and its LLM the token embeddings.
        tokenizer: A ``tokenizers.Tokenizer`` that cuts as the encoder does.
        texts: N different sample queries.
        seed: Chooses the texts that are held out.
    """
    order = [texts[place] for place in np.random.default_rng(seed).permutation(len(texts))]
    vectors = _encoded(encoder, order)
    embeddings = encoder.backbone.model.get_input_embeddings().weight.detach().float().cpu().numpy()
    ids = [found.ids for found in tokenizer.encode_batch(order, add_special_tokens=False)]
    held_out = min(_MOST_HELD_OUT, max(1, len(order) // 20))
    counts = _counts(ids, len(embeddings))
    fitted, measured = slice(held_out, None), slice(0, held_out)
    base, empty = _mapped(counts[fitted], vectors[fitted], embeddings)
    best: FittedTable | None = None
    for ridge in _RIDGES:
        rows = base + _ridge_rows(counts[fitted], vectors[fitted] - counts[fitted] @ base, ridge)
        cosine = float(np.mean(_cosines(counts[measured] @ rows, vectors[measured])))
        if best is None or cosine > best.cosine:
            best = FittedTable(np.vstack([rows, empty]), cosine, ridge)
    assert best is not None
    return best


def _encoded(encoder: Any, texts: Sequence[str]) -> Matrix:
    parts = []
    with ProgressReporter("encoding sample queries", "query", "queries") as progress:
        progress.start(total=len(texts))
        for start in range(0, len(texts), _BATCH):
            parts.append(encoder.encode_queries(list(texts[start : start + _BATCH])))
            progress.advance(len(parts[-1]))
    return np.concatenate(parts).astype(np.float32)


def _counts(ids: Sequence[Sequence[int]], vocabulary: int) -> Any:
    """Return the sparse matrix [N, V] of token counts divided by the length of each text."""
    from scipy.sparse import csr_matrix

    columns = np.array([token for row in ids for token in row], dtype=np.int64)
    lengths = np.array([len(row) for row in ids])
    values = np.repeat(1.0 / np.maximum(lengths, 1), lengths).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    matrix = csr_matrix((values, columns, starts), shape=(len(ids), vocabulary))
    matrix.sum_duplicates()
    return matrix


def _mapped(counts: Any, vectors: Matrix, embeddings: Matrix) -> tuple[Matrix, Matrix]:
    """Return the rows [V, D] that a linear map from token embeddings gives, and its constant [1, D]."""
    means = counts @ embeddings  # [N, E]
    center, middle = vectors.mean(axis=0, keepdims=True), means.mean(axis=0, keepdims=True)
    apart = (means - middle).astype(np.float64)
    gram = apart.T @ apart
    gram[np.diag_indices_from(gram)] += _MAP_RIDGE * np.trace(gram) / len(gram) + np.finfo(np.float32).tiny
    slope = np.linalg.solve(gram, apart.T @ (vectors - center)).astype(np.float32)
    # The shares of a text's tokens add up to one, so the constant may stand in every row.
    return (embeddings - middle) @ slope + center, center


def _ridge_rows(counts: Any, targets: Matrix, ridge: float) -> Matrix:
    """Return the rows [V, D] that minimize |counts rows - targets|^2 + ridge |rows|^2, by conjugate gradients."""
    used = np.flatnonzero(np.asarray(counts.sum(axis=0)).ravel())
    few = counts[:, used].tocsr()
    turned = few.T.tocsr()
    residual = turned @ targets  # [U, D]
    rows, direction = np.zeros_like(residual), residual.copy()
    squares = (residual * residual).sum(axis=0)
    enough = 1e-8 * squares.max()
    for _ in range(_STEPS):
        if squares.max() <= enough:
            break
        moved = turned @ (few @ direction) + ridge * direction
        step = squares / np.maximum((direction * moved).sum(axis=0), np.finfo(np.float32).tiny)
        rows += step * direction
        residual -= step * moved
        before, squares = squares, (residual * residual).sum(axis=0)
        direction = residual + squares / np.maximum(before, np.finfo(np.float32).tiny) * direction
    whole = np.zeros((counts.shape[1], targets.shape[1]), dtype=np.float32)
    whole[used] = rows
    return whole


def _cosines(first: Matrix, second: Matrix) -> Matrix:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.asarray((first * second).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny))


def sample_spans(read: Callable[[], Iterable[tuple[str, str]]], most: int, seed: int) -> list[str]:
    """Return query-like pieces of passages: titles, and runs of 3 to 12 words drawn from the texts.

    Words are counted as :func:`llama2vec.data.text.words.word_spans` does: a Chinese or Japanese sign is one.

    The passages are read twice: to count their words, which is all that is kept of them, and to take the pieces.

    Args:
        read: Gives titles and texts, the same each time.
        most: Number of pieces.
        seed: Seed of the draw.
    """
    titles, lengths = 0, array("Q")
    for title, text in read():
        titles += bool(title.strip())
        if (words := count_words(text)) >= _SHORTEST:
            lengths.append(words)
    draw = np.random.default_rng(seed)
    chosen = {int(place): number for number, place in enumerate(draw.permutation(titles)[: most // 4])}
    spans: dict[int, list[tuple[int, slice]]] = {}
    total = len(chosen)
    while lengths and total < most:
        row = int(draw.integers(len(lengths)))
        length = min(lengths[row], int(draw.integers(_SHORTEST, 13)))
        start = int(draw.integers(lengths[row] - length + 1))
        spans.setdefault(row, []).append((total, slice(start, start + length)))
        total += 1
    return _pieces(read(), total, chosen, spans)


def _pieces(
    passages: Iterable[tuple[str, str]],
    total: int,
    titles: Mapping[int, int],
    spans: Mapping[int, Sequence[tuple[int, slice]]],
) -> list[str]:
    """Return the pieces, given the number of each by that of its title, or of its text among those long enough."""
    pieces = [""] * total
    title_number, row = -1, -1
    for title, text in passages:
        if title.strip():
            title_number += 1
            if title_number in titles:
                pieces[titles[title_number]] = title.strip()
        words = word_spans(text)
        if len(words) >= _SHORTEST:
            row += 1
            for number, span in spans.get(row, ()):
                run = words[span]
                pieces[number] = " ".join(text[run[0][0] : run[-1][1]].split())
    return pieces
