"""BM25 over words (bm25s, arXiv 2407.03618): half of hybrid search, a baseline, and a source of hard negatives.

Words are runs of at least two letters or digits, with the marks on them. Chinese, Japanese and Korean runs become
overlapping pairs of characters, as in Lucene's CJKAnalyzer, so that no dictionary is needed and a query matches
wherever its pairs occur; so do Thai, Lao, Burmese and Khmer runs, in which a letter with a mark, often a whole word, is
a word as well. Words are stemmed where Snowball has a stemmer for the language; stop words are dropped where bm25s has
a list of them. Texts are normalized first (NFKC), so that composed and decomposed accents, and full-width letters, are
the same; marks that writers may leave out, such as Arabic and Hebrew vowels, are dropped.
"""

from __future__ import annotations

import json
import logging
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from llama2vec.artifact import read_object
from llama2vec.data.text.words import (
    SIGNS,
    bare,
    has_dotless_i,
    is_paired,
    is_plain,
    letters_of,
    lower_case,
    word_runs,
)
from llama2vec.errors import ConfigError, EmptyCorpusError, MissingDependencyError, StoreError
from llama2vec.files import write_json
from llama2vec.languages import check_language
from llama2vec.records import Passage, Query, Run
from llama2vec.retrieve.index.exact import Rows, Scores, best_rows
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

_FACTS_FILE = "corpus.json"
_STEMMERS = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian",
    "id": "indonesian", "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch", "no": "norwegian",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil",
    "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
"""The stemmers that every PyStemmer since 2.0 has, so that an index reads the same on another machine."""

_WITH_STOP_WORDS = frozenset(["da", "de", "en", "es", "fr", "it", "nl", "no", "pt", "ru", "sv", "tr"])
_SIGN = re.compile(f"[{SIGNS}]")
_WORD = re.compile(r"\b\w\w+\b")

_UNSPACED_LANGUAGES = frozenset(["ja", "km", "ko", "lo", "my", "th", "yue", "zh"])
"""Those whose words become pairs of letters, for which no stemmer is needed."""

_WORDS, _WORDS_WITH_DOTLESS_I = 2, 3
"""Raised when a text has other words, so that no index is searched for words that it cannot hold."""


@dataclass(frozen=True)
class Bm25Index:
    """A corpus in memory for BM25 as Lucene scores it: title and text as one field."""

    _ids: Sequence[str]
    _tokenizer: Any
    _scorer: Any  # None if no passage has a word
    _mean_words: float
    _language: str
    _check: Callable[[], None] = lambda: None  # Raises where the files that the scorer reads have changed

    @classmethod
    def build(cls, passages: Iterable[Passage], *, language: str = "en", k1: float = 1.2, b: float = 0.75) -> Bm25Index:
        """Index a corpus; its texts are not kept.

        Args:
            passages: Read once.
            language: ISO 639 code; chooses stemmer and stop words.
            k1: How quickly repetitions of a word stop adding to the score.
            b: How strongly longer passages are penalized, 0..1.

        Raises:
            EmptyCorpusError: The corpus has no passages.
            ConfigError: The language is not an ISO 639 code.
            MissingDependencyError: bm25s or PyStemmer is not installed.
        """
        language = known_code(language)
        bm25s, tokenization, _ = _import_bm25s()
        tokenizer = new_tokenizer(language)
        if not (tokenizer.stemmer or tokenizer.stopwords or language in _UNSPACED_LANGUAGES):
            logger.info(
                "BM25 has no stemmer and no stop words for the language %r; all words count as written", language
            )
        ids: list[str] = []

        def texts() -> Iterator[str]:
            for passage in passages:
                ids.append(passage.id)
                yield passage.full_text

        words = list(tokenizer.streaming_tokenize(texts(), update_vocab=True, allow_empty=False))
        if not ids:
            raise EmptyCorpusError("the corpus has no passages; BM25 needs at least one")
        scorer = None
        if any(words):
            scorer = bm25s.BM25(k1=k1, b=b, method="lucene")
            vocabulary = tokenizer.get_vocab_dict()
            tokenized = tokenization.Tokenized(ids=words, vocab=vocabulary)
            scorer.index(tokenized, create_empty_token=False, show_progress=False)
        return cls(ids, tokenizer, scorer, sum(map(len, words)) / len(words), language)

    def __len__(self) -> int:
        return len(self._ids)

    def save(self, folder: Path) -> None:
        """Write everything but the passage ids into an empty folder."""
        facts = {
            "language": self._language,
            "mean_words": self._mean_words,
            "passages": len(self._ids),
            "empty": self._scorer is None,
            "words": words_version(self._language),
        }
        self._tokenizer.save_vocab(folder)
        if self._scorer is not None:
            self._scorer.save(folder, show_progress=False)
        write_json(folder / _FACTS_FILE, facts)

    @classmethod
    def load(cls, folder: Path, ids: Sequence[str], check: Callable[[], None] = lambda: None) -> Bm25Index:
        """Open what :meth:`save` wrote for passages with these ids; scores are read from disk when asked for.

        ``check`` runs before each reading; it raises a StoreError if the files are not those that were saved.

        Raises:
            StoreError: A file is missing or invalid, or the number of passages differs.
            MissingDependencyError: bm25s or PyStemmer is not installed.
        """
        bm25s, *_ = _import_bm25s()
        check()
        try:
            facts = json.loads((folder / _FACTS_FILE).read_bytes())
            language = str(facts["language"])
            known_code(language)
            if facts.get("words") != words_version(language):
                raise ValueError(
                    "another version of llama2vec counted its words; `llama2vec sync` mends an index that follows a "
                    "folder, `llama2vec index --overwrite` any other"
                )
            tokenizer = _tokenizer(language)
            tokenizer.load_vocab(folder)
            scorer = None if facts["empty"] else bm25s.BM25.load(folder, mmap=True, show_progress=False)
            passages, mean_words = int(facts["passages"]), float(facts["mean_words"])
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            raise StoreError(f"the BM25 index {folder} cannot be read ({error}); build it again") from error
        if passages != len(ids):
            raise StoreError(
                f"the BM25 index {folder} is over {counted(passages, 'passage')}, not {len(ids):,}; build it again"
            )
        return cls(ids, tokenizer, scorer, mean_words, language, check)

    @staticmethod
    def is_current(folder: Path) -> bool:
        """Tell whether :meth:`save` wrote into a folder with the words that this version counts."""
        facts = read_object(folder / _FACTS_FILE)
        return facts is not None and facts.get("words") == words_version(str(facts.get("language")))

    def search(self, queries: Iterable[Query], depth: int = 100, tag: str = "bm25") -> Run:
        """Return the passages that share words with each query."""
        results = {}
        for query in queries:
            scores, rows = self.best(query.text, depth)
            results[query.id] = {
                self._ids[row]: score for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
            }
        return Run(results, tag=tag)

    def scores(self, query: str) -> Scores:
        """Return the [N] scores of all passages for a query; 0 where they share no word."""
        words = self._words_asked(query)
        if self._scorer is None or not words:
            return np.zeros(len(self._ids), dtype=np.float32)
        self._check()
        found: Scores = self._scorer.get_scores_from_ids(words)
        return found

    def score_text(self, query: str, text: str) -> float:
        """Return what a text would score if it were a passage, by the statistics that the corpus has without it.

        >>> index = Bm25Index.build([Passage("a", "llama wool"), Passage("b", "camel")])
        >>> round(index.score_text("wool", "llama wool"), 6), round(index.scores("wool").tolist()[0], 6)
        (0.277259, 0.277259)
        """
        if self._scorer is None:
            return 0.0
        self._check()
        length = len(self._counted(text))  # Words that the corpus lacks count only towards it
        k1, b, passages = self._scorer.k1, self._scorer.b, len(self._ids)
        spread = k1 * (1 - b + b * length / self._mean_words)
        counts, total = Counter(self._words(text)), 0.0
        for word in self._words_asked(query):
            # Scores are kept by word, one for each passage that has it.
            begin, end = self._scorer.scores["indptr"][word : word + 2].tolist()
            idf = math.log(1 + (passages - (end - begin) + 0.5) / (end - begin + 0.5))
            total += idf * counts[word] / (counts[word] + spread)
        return total

    def weights(self) -> tuple[list[str], Any]:
        """Return the W words and a [N, W] sparse matrix (scipy CSR, float32) of what each adds to a passage's score."""
        from scipy.sparse import csc_matrix

        vocabulary = self._tokenizer.get_vocab_dict()
        words = sorted(vocabulary, key=vocabulary.__getitem__)
        if self._scorer is None:
            return words, csc_matrix((len(self._ids), len(words)), dtype=np.float32).tocsr()
        self._check()
        parts = (self._scorer.scores[name] for name in ("data", "indices", "indptr"))
        return words, csc_matrix(tuple(parts), shape=(len(self._ids), len(words))).tocsr()

    def _words(self, text: str) -> list[int]:
        """Return the numbers of a text's words that the corpus has, repeated as in the text."""
        found: list[int] = next(self._tokenizer.streaming_tokenize([text], update_vocab=False, allow_empty=False))
        return found

    def _words_asked(self, query: str) -> list[int]:
        """Return the numbers of a query's words; a single sign stands for every pair of the corpus that it is in."""
        words = self._words(query)
        single = set() if is_plain(query) else {word for word in self._counted(query) if _is_single(word)}
        if single:
            vocabulary = self._tokenizer.get_vocab_dict()
            found = ((word, number) for word, number in vocabulary.items() if word and is_paired(word[0]))
            words += [number for word, number in found if word not in single and any(one in word for one in single)]
        return words

    def _counted(self, text: str) -> list[str]:
        """Return the words of a text that BM25 compares, whether the corpus has them or not."""
        stop_words = set(self._tokenizer.stopwords)
        text = text.lower() if self._tokenizer.lower else text
        return [word for word in self._tokenizer.splitter(text) if word not in stop_words]

    def reads(self, query: str) -> bool:
        """Tell whether a query has a word that BM25 compares; single letters and stop words are none."""
        return bool(self._counted(query))

    def best(self, query: str, depth: int, allowed: Rows | None = None) -> tuple[Scores, Rows]:
        """Return the scores and rows of the best passages that share a word with the query, at most ``depth``.

        ``allowed`` = the rows [N] to search among, ascending; None = all. The statistics stay those of all passages.
        """
        scores = self.scores(query)
        rows = best_matches(scores, depth) if allowed is None else allowed[best_matches(scores[allowed], depth)]
        return scores[rows], rows

    def best_of_each(self, queries: Sequence[str], depth: int, allowed: Rows | None = None) -> tuple[Scores, Rows]:
        """Return [Q, K] scores and rows as :meth:`best` finds them, filled up with -inf and -1."""
        shape = (len(queries), min(depth, len(self) if allowed is None else len(allowed)))
        scores, rows = np.full(shape, -np.inf, dtype=np.float32), np.full(shape, -1, dtype=np.int64)
        for place, query in enumerate(queries):
            best_scores, best = self.best(query, depth, allowed)
            scores[place, : len(best)], rows[place, : len(best)] = best_scores, best
        return scores, rows


def best_matches(scores: Scores, depth: int) -> Rows:
    """Return the rows of the passages that share a word with a query, best first, at most ``depth``."""
    found = np.flatnonzero(scores > 0)
    return found[best_rows(scores[found], depth)]


def _import_bm25s() -> tuple[Any, Any, Any]:
    """Return the modules bm25s, bm25s.tokenization and Stemmer."""
    try:
        import bm25s
        import Stemmer
        from bm25s import tokenization
    except ImportError as error:
        raise MissingDependencyError(f"{error.name} is not installed; run: pip install 'llama2vec[search]'") from error
    # bm25s turns its own logger on at import.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s, tokenization, Stemmer


def split_words(text: str) -> list[str]:
    """Return the words of a text, unchanged.

    >>> split_words("the llama, a camelid")
    ['the', 'llama', 'camelid']
    >>> split_words("羊驼毛 gpu版本 猫")
    ['羊驼', '驼毛', 'gpu', '版本', '猫']
    """
    if is_plain(text):
        return _WORD.findall(text)
    words = [text[begin:end] for begin, end in term_spans(text)]
    return [word for word in words if letters_of(word) > 1 or is_paired(word[0])]


def term_spans(text: str) -> list[tuple[int, int]]:
    """Return where words begin and end, including those of one letter; pairs of letters overlap.

    >>> term_spans("a 羊驼毛")
    [(0, 1), (2, 4), (3, 5)]
    """
    spans: list[tuple[int, int]] = []
    for letters in word_runs(text):
        if len(letters) == 1:
            spans += letters
            continue
        pairs = [(begin, end) for (begin, _), (_, end) in pairwise(letters)]
        # A letter with a mark may be a word, as งู and ရေ are.
        alone = [(begin, end) for begin, end in letters if end - begin > 1 and not _SIGN.match(text[begin])]
        spans += sorted(pairs + alone) if alone else pairs
    return spans


def split_normalized(text: str, language: str = "en") -> list[str]:
    """Return the words of a text in one Unicode form and in lower case, without marks that may be left out.

    >>> split_normalized("Cafe\u0301 ＧＰＵ İstanbul"), split_normalized("IŞIK", "tr")
    (['café', 'gpu', 'istanbul'], ['ışık'])
    """
    return split_words(bare(lower_case(unicodedata.normalize("NFKC", text), language)))


def _is_single(word: str) -> bool:
    """Tell whether a word is one sign, or one letter of a script without spaces; one with a mark is a word anyway."""
    is_pair_of_one = is_paired(word[0]) and [len(letters) for letters in word_runs(word)] == [1]
    return is_pair_of_one and (len(word) == 1 or _SIGN.match(word) is not None)


def words_version(language: str) -> int:
    """Return the version of the words of a language: an index with other ones must be made again."""
    return _WORDS_WITH_DOTLESS_I if has_dotless_i(language) else _WORDS


def known_code(language: str) -> str:
    """Return the code under which stemmers and stop words know a language; a ConfigError for no ISO 639 code."""
    try:
        return check_language(language)
    except ValueError as error:
        raise ConfigError(f"language: {error}") from None


def new_tokenizer(language: str) -> Any:
    """Return a tokenizer of bm25s with an empty vocabulary, for a language named by its ISO 639 code.

    Raises:
        ConfigError: The language is not an ISO 639 code.
        MissingDependencyError: bm25s or PyStemmer is not installed.
    """
    return _tokenizer(known_code(language))


def _tokenizer(language: str) -> Any:
    """Return a tokenizer for a code as it stands: an index may have been made when deu had no stemmer."""
    _, tokenization, snowball = _import_bm25s()
    stemmer = snowball.Stemmer(_STEMMERS[language]) if language in _STEMMERS else None
    stop_words = language if language in _WITH_STOP_WORDS else None
    # Not in lower case before it is split: that needs the language.
    return tokenization.Tokenizer(
        lower=not has_dotless_i(language), splitter=partial(split_normalized, language=language),
        stopwords=stop_words, stemmer=stemmer,
    )  # fmt: skip
