"""Why a passage matches a query: the words that both embeddings stand for, and the sentences that carry the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama2vec.data.unlabeled import sentences
from llama2vec.explain.vocabulary import VocabularyView, WordWeight


@dataclass(frozen=True, slots=True)
class SharedWord:
    """A word that both embeddings stand for.

    Attributes:
        word: As the vocabulary view names it.
        query_weight: In the query's sparse vector.
        passage_weight: In the passage's.
    """

    word: str
    query_weight: float
    passage_weight: float

    @property
    def contribution(self) -> float:
        """What the word adds to the sparse score."""
        return self.query_weight * self.passage_weight


@dataclass(frozen=True, slots=True)
class SentenceEvidence:
    """One sentence of the passage.

    Attributes:
        text: The sentence.
        drop: Cosine of the whole passage less the cosine without the sentence; below 0 = the passage does better
            without it.
    """

    text: str
    drop: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A query and a passage side by side.

    Attributes:
        cosine: Of the dense vectors: what dense search ranks by.
        sparse: Dot product of the sparse vectors: what sparse search ranks by.
        query_words: What the query's embedding stands for, heaviest first.
        passage_words: The same of the passage.
        shared: Words of both, the largest contribution first; all of them add up to ``sparse``.
        evidence: The passage's sentences, the largest drop first; empty where it was not asked for or there is one
            sentence only.
    """

    cosine: float
    sparse: float
    query_words: list[WordWeight]
    passage_words: list[WordWeight]
    shared: list[SharedWord]
    evidence: list[SentenceEvidence]


def explain(view: VocabularyView, query: str, passage: str, *, top: int = 12, evidence: bool = False) -> Explanation:
    """Explain a match by the words of both embeddings.

    Args:
        view: Of the encoder.
        query: Read with the query prompt.
        passage: Title and text as one, read with the passage prompt.
        top: Most words of each embedding; the words of both are all there.
        evidence: Also leave out each sentence of the passage in turn and encode the rest: one more reading for each.
    """
    asked, found = view.sparse([query], "query"), view.sparse([passage], "passage")
    query_weights, passage_weights = (
        dict(zip(row.indices.tolist(), row.data.tolist(), strict=True)) for row in (asked, found)
    )
    shared = [
        SharedWord(view.words[word], weight, passage_weights[word])
        for word, weight in query_weights.items()
        if word in passage_weights
    ]
    shared.sort(key=lambda word: (-word.contribution, word.word))
    (query_vector,) = view.encoder.encode_queries([query])
    (passage_vector,) = view.encoder.encode_passages([passage])
    return Explanation(
        cosine=float(query_vector @ passage_vector),
        sparse=sum(word.contribution for word in shared),
        query_words=heaviest(view.words, query_weights, top),
        passage_words=heaviest(view.words, passage_weights, top),
        shared=shared,
        evidence=sentence_evidence(view, query, passage) if evidence else [],
    )


def sentence_evidence(view: VocabularyView, query: str, passage: str) -> list[SentenceEvidence]:
    """Return how much the dense score falls without each sentence of a passage, the largest fall first.

    Exact: every remainder is encoded. Sentences behind the encoder's length limit were not read and change nothing;
    without an earlier one, they may come into its view.
    """
    parts = sentences(passage, view.language)
    if len(parts) < 2:
        return []
    without = [" ".join(parts[:place] + parts[place + 1 :]) for place in range(len(parts))]
    vectors = view.encoder.encode_passages([" ".join(parts), *without])
    (query_vector,) = view.encoder.encode_queries([query])
    whole, *rest = (vectors @ query_vector).tolist()
    evidence = [SentenceEvidence(text, whole - score) for text, score in zip(parts, rest, strict=True)]
    return sorted(evidence, key=lambda sentence: -sentence.drop)


def heaviest(words: Sequence[str], weights: dict[int, float], top: int) -> list[WordWeight]:
    """Return the ``top`` heaviest of the weights by word number, heaviest first."""
    order = sorted(weights, key=lambda word: (-weights[word], word))[:top]
    return [WordWeight(words[word], weights[word]) for word in order]
