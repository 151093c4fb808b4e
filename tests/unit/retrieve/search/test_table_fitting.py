"""The rows of a query table are those of ridge regression, and sample queries are drawn by the seed."""

from __future__ import annotations

import numpy as np

from llama2vec.retrieve.search.table_fitting import _counts, _mapped, _ridge_rows, sample_spans


def test_conjugate_gradients_find_the_ridge_solution() -> None:
    draw = np.random.default_rng(0)
    ids = [draw.integers(12, size=draw.integers(1, 6)).tolist() for _ in range(80)]
    counts = _counts(ids, 15)
    np.testing.assert_allclose(np.asarray(counts.sum(axis=1)).ravel(), 1, rtol=1e-6)
    targets = draw.normal(size=(80, 4)).astype(np.float32)
    found = _ridge_rows(counts, targets, 0.1)
    dense = counts.toarray()
    wanted = np.linalg.solve(dense.T @ dense + 0.1 * np.eye(15), dense.T @ targets)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert not found[12:].any()  # tokens that no text has keep the row of the map


def test_a_linear_map_from_token_embeddings_is_found_for_tokens_that_no_text_has() -> None:
    draw = np.random.default_rng(1)
    embeddings, slope = draw.normal(size=(30, 5)).astype(np.float32), draw.normal(size=(5, 3)).astype(np.float32)
    constant = draw.normal(size=(1, 3)).astype(np.float32)
    ids = [draw.integers(20, size=4).tolist() for _ in range(300)]
    counts = _counts(ids, 30)
    vectors = counts @ (embeddings @ slope + constant)
    rows, _ = _mapped(counts, vectors.astype(np.float32), embeddings)
    np.testing.assert_allclose(rows, embeddings @ slope + constant, atol=0.02)


def test_spans_are_titles_and_runs_of_words_by_the_seed() -> None:
    passages = [("A title", "one two three four five six seven"), ("", "short"), ("", "alpha beta gamma")]
    found = sample_spans(lambda: iter(passages), 12, 3)
    assert len(found) == 12
    assert found == sample_spans(lambda: iter(passages), 12, 3) != sample_spans(lambda: iter(passages), 12, 4)
    assert found[:3] == ["A title", "alpha beta gamma", "one two three four five"]
    texts = " ".join(text for _, text in passages)
    assert all(piece in texts and 3 <= len(piece.split()) <= 12 for piece in found[1:])
    assert sample_spans(lambda: iter([("", "short")]), 5, 0) == []


def test_texts_without_spaces_have_runs_of_signs() -> None:
    texts = [f"第{number}段：羊驼生活在安第斯山脉的高原上，身上的毛又厚又软。" for number in range(100)]
    found = sample_spans(lambda: iter([("", text) for text in texts]), 60, 0)
    assert len(found) == 60
    assert all(any(piece in text for text in texts) for piece in found)
    assert max(map(len, found)) < 30
