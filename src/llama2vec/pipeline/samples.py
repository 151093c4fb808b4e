"""The texts of a run before it starts: how many there are, and how long a sample of them is."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from statistics import fmean
from typing import NamedTuple

from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.corpus.sources import is_remote
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.examples.labeled import read_examples
from llama2vec.data.examples.unlabeled import pairs_from_corpus
from llama2vec.data.text.words import first_words
from llama2vec.model.tokenizer import load_tokenizer
from llama2vec.model.tokens import corpus_splitter
from llama2vec.pipeline.plan import GENERATED_PAIRS, is_read_first, pair_files
from llama2vec.pipeline.settings import RunConfig
from llama2vec.pipeline.systems import read_documents_as
from llama2vec.records import Passage, TrainingExample
from llama2vec.terminal import counted

SAMPLE = 256
"""Texts of a source whose tokens are counted."""
_SAMPLED_FROM, _MOST_EXAMPLES = 20_000, 200_000
_QUESTION_WORDS, _KEPT = 10, 0.5
"""Of generated questions: their words, and the share that passes the filters."""


class Lengths(NamedTuple):
    """Token counts of sampled texts without prompts, the total number of texts, and their mean size in bytes."""

    tokens: Sequence[int]
    total: int
    bytes: float = 0.0

    def mean(self, most: int, prompt: int) -> float:
        """Return the mean length of these texts, cut after ``most`` tokens, with their prompt."""
        return fmean(min(count, most) for count in self.tokens) + prompt if self.tokens else float(prompt)

    def drawn(self, count: int, most: int, prompt: int) -> list[int]:
        """Return the lengths of so many of these texts, always the same."""
        draw = random.Random("lengths")
        return [min(one, most) + prompt for one in (draw.choices(self.tokens, k=count) if self.tokens else ())]


class Samples:
    """Samples each source of texts of a run once.

    Attributes:
        prompt: Tokens of the longer prompt with its slots.
        negatives: Number of negatives of each sampled example, once :meth:`pairs` has read them.
        notes: What was sampled, in sentences.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config, self._tokenizer = config, load_tokenizer(config.model.name)
        self.notes: list[str] = []
        self.negatives: list[int] = []
        self._corpora: dict[tuple[str, bool], Lengths] = {}
        self._splitters: dict[str, Splitter | None] = {}
        self._sampled: tuple[Lengths, Lengths] | None = None
        prompts = config.prompts
        both = [prompts.prefix + prompts.self_prompt, prompts.prefix + prompts.next_prompt]
        self.prompt = max(self.count(both)) + max(prompts.slots, 1)

    def count(self, texts: Iterable[str]) -> list[int]:
        """Return the tokens of each text."""
        texts = list(texts)
        return [len(ids) for ids in self._tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []

    def passages(self, source: str, *, whole: bool = False) -> Iterator[Passage]:
        """Read a corpus as its stages do: split, except for adaptation, which reads it ``whole``."""
        config = self._config
        if whole:
            return read_passages(source, settings=config.adapt.reading if config.adapt else None)
        if not is_read_first(config, source):
            return read_passages(source)
        if source not in self._splitters:
            spec = read_documents_as(config)
            self._splitters[source] = corpus_splitter(source, spec, config.passages, config.reading)
        return read_passages(source, splitter=self._splitters[source], settings=config.reading)

    def corpus(self, source: str, *, whole: bool = False) -> Lengths:
        """Sample a corpus evenly from its first passages."""
        if (source, whole) not in self._corpora:
            total = None if is_remote(source) else sum(1 for _ in self.passages(source, whole=whole))
            head = min(total or _SAMPLED_FROM, _SAMPLED_FROM)
            every = max(1, head // SAMPLE)
            sample = [one.full_text for one in islice(self.passages(source, whole=whole), 0, head, every)]
            counts = self.count(sample)
            known = counted(total, "passage") if total else f"unknown size, counted as {head:,} passages"
            mean = f"{fmean(counts):,.0f} tokens each (mean of {len(counts)} from the first {head:,})"
            self.notes.append(f"{source}: {known}, {mean}")
            size = fmean(len(text.encode("utf-8", "replace")) for text in sample)
            self._corpora[source, whole] = Lengths(counts, total or head, size)
        return self._corpora[source, whole]

    def pairs(self) -> tuple[Lengths, Lengths]:
        """Return the lengths of the queries and of the passages of the training pairs."""
        if self._sampled is None:
            sample: list[TrainingExample] = []
            total = 0
            for name, source in pair_files(self._config).items():
                if name == GENERATED_PAIRS:
                    found, count = self._generated_pairs()
                elif source is None:
                    found, count = self._own_pairs()
                else:
                    rest = read_examples(source.source, split=source.split, limit=source.limit or _MOST_EXAMPLES)
                    found = list(islice(rest, SAMPLE))
                    count = len(found) + sum(1 for _ in islice(rest, _MOST_EXAMPLES - len(found)))
                    capped = " (not counted further)" if count == _MOST_EXAMPLES else ""
                    self.notes.append(f"{source.source}: {counted(count, 'labeled query', 'labeled queries')}{capped}")
                total += count
                sample += found
            self.negatives = [len(example.negatives) for example in sample]
            queries, passages = zip(*((one.query, one.positives[0]) for one in sample), strict=True)
            self._sampled = Lengths(self.count(queries), total), Lengths(self.count(passages), total)
        return self._sampled

    def _own_pairs(self) -> tuple[list[TrainingExample], int]:
        settings, source = self._config.pairs, self._config.corpus
        assert settings
        assert settings.from_corpus
        head = list(islice(self.passages(source), 2 * SAMPLE))
        unlimited = settings.from_corpus.model_copy(update={"limit": 0})
        found = list(pairs_from_corpus(head, unlimited, settings.seed))
        each, total = len(found) / len(head), self.corpus(source).total
        self.notes.append(f"{source}: {each:.1f} pairs per passage (from the first {len(head)})")
        count = round(each * min(settings.from_corpus.limit or total, total))
        return found[:: max(1, len(found) // SAMPLE)], count

    def _generated_pairs(self) -> tuple[list[TrainingExample], int]:
        """Stand in for questions that are not written yet: as many first words of their passages."""
        passages = list(islice(self.passages(self._config.corpus), SAMPLE))
        found = [TrainingExample(first_words(one.text, _QUESTION_WORDS) or "?", (one.full_text,)) for one in passages]
        asked, each = self.asked()
        written = f"{counted(each, 'question')} for each of {counted(asked, 'passage')}"
        self.notes.append(f"{written}; half of them are assumed to pass the filters")
        return found, round(asked * each * _KEPT)

    def asked(self) -> tuple[int, int]:
        """Return how many passages get questions, and how many each."""
        assert self._config.pairs
        assert self._config.pairs.generated
        settings, total = self._config.pairs.generated, self.corpus(self._config.corpus).total
        return min(settings.passages or total, total), settings.questions
