"""Pairs (T, the text U that follows T) from ordered plain text, split at sentence ends."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llama2vec.data.settings import TextSettings
from llama2vec.errors import EmptyCorpusError, MissingDependencyError
from llama2vec.records import AdaptationExample, Passage

_NUMBERED_ID = re.compile(r"^(?P<document>.+)[-_#:/](?P<number>\d+)$")


@dataclass(frozen=True, slots=True)
class Document:
    """Consecutive texts of one document."""

    id: str
    texts: tuple[str, ...]


def group_documents(passages: Iterable[Passage]) -> Iterator[Document]:
    """Group consecutive passages of a document: ids ``<document>-<number>`` with rising numbers and no gap.

    Every other passage is a document by itself.

    >>> rows = [Passage("a-0", "x"), Passage("a-1", "y"), Passage("b-0", "z"), Passage("c", "w")]
    >>> [(document.id, document.texts) for document in group_documents(rows)]
    [('a', ('x', 'y')), ('b', ('z',)), ('c', ('w',))]
    """
    current_id, previous_id, texts = "", "", list[str]()
    for passage in passages:
        if texts and follows(previous_id, passage.id):
            texts.append(passage.text)
        else:
            if texts:
                yield Document(current_id, tuple(texts))
            match = _NUMBERED_ID.match(passage.id)
            current_id, texts = match["document"] if match else passage.id, [passage.text]
        previous_id = passage.id
    if texts:
        yield Document(current_id, tuple(texts))


def follows(first_id: str, second_id: str) -> bool:
    """Tell from their ids whether one passage directly follows another in the same document.

    >>> follows("a-09", "a-10"), follows("a-09", "b-10"), follows("a-09", "a-11"), follows("a", "b")
    (True, False, False, False)
    """
    first, second = _NUMBERED_ID.match(first_id), _NUMBERED_ID.match(second_id)
    if not first or not second:
        return False
    return first["document"] == second["document"] and int(second["number"]) == int(first["number"]) + 1


def sentences(text: str, language: str = "en") -> list[str]:
    """Split a text into sentences; a break between paragraphs ends a sentence."""
    try:
        import sentencex
    except ImportError as error:
        raise MissingDependencyError("splitting sentences needs sentencex; pip install 'llama2vec[train]'") from error
    found = (" ".join(str(piece).split()) for piece in sentencex.segment(language, text))
    return [sentence for sentence in found if sentence]


def cut_document(document: Document, settings: TextSettings, seed: int = 0) -> list[str]:
    """Split a document into consecutive pieces of whole sentences.

    The target length of each piece is drawn uniformly between ``min_words`` and ``max_words``, seeded by the document's
    id. A longer sentence stays whole.

    Returns:
        Pieces in reading order; only a single piece may be shorter than ``min_words``.
    """
    lengths = random.Random(f"{seed}:{document.id}")
    pieces: list[str] = []
    current: list[str] = []
    words, target = 0, lengths.randint(settings.min_words, settings.max_words)
    for text in document.texts:
        for sentence in sentences(text, settings.language):
            size = len(sentence.split())
            if words >= settings.min_words and words + size > target:
                pieces.append(" ".join(current))
                current, words = [], 0
                target = lengths.randint(settings.min_words, settings.max_words)
            current.append(sentence)
            words += size
    if current and (words >= settings.min_words or not pieces):
        pieces.append(" ".join(current))
    elif current:
        pieces[-1] = f"{pieces[-1]} {' '.join(current)}"
    return pieces


def adaptation_examples(
    passages: Iterable[Passage], settings: TextSettings, seed: int = 0, need_next: bool = True
) -> tuple[list[AdaptationExample], list[AdaptationExample]]:
    """Return training and held-out pairs from ordered text; a document belongs to one of the two as a whole.

    Args:
        passages: In reading order.
        settings: Cutting rules and the held-out share.
        seed: Seed of the drawn lengths.
        need_next: Drop the last piece of a document, which has no following text (EBAR needs U). A document of a
            single piece is kept, with an empty U, so that a corpus of short texts is usable.

    Returns:
        (training examples, held-out examples).

    Raises:
        EmptyCorpusError: No text at all.
    """
    training: list[AdaptationExample] = []
    held_out: list[AdaptationExample] = []
    for document in group_documents(passages):
        pieces = cut_document(document, settings, seed)
        if not pieces:
            continue
        following = [*pieces[1:], ""]
        examples = [AdaptationExample(piece, after) for piece, after in zip(pieces, following, strict=True)]
        if need_next and len(examples) > 1:
            examples.pop()
        side = held_out if _share(document.id) < settings.held_out else training
        side.extend(examples)
    if not training and held_out:
        training, held_out = held_out, []
    if not training:
        raise EmptyCorpusError(f"{settings.corpus or 'the corpus'}: no text to learn from; every passage is empty")
    return training, held_out


def _share(document_id: str) -> float:
    digest = hashlib.blake2b(document_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
