"""The texts of a run before it starts: how many there are, and how long a sample of them is."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from itertools import islice
from statistics import fmean
from typing import NamedTuple

from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.corpus.sources import is_remote
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.examples.counting import count_examples
from llama2vec.data.examples.labeled import read_examples
from llama2vec.data.examples.unlabeled import pairs_from_corpus
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.text.words import first_words
from llama2vec.errors import EmptyCorpusError
from llama2vec.model.tokenizer import load_tokenizer
from llama2vec.model.tokens import corpus_splitter
from llama2vec.pipeline.plan import GENERATED_PAIRS, fields_of, is_read_first, pair_files
from llama2vec.pipeline.settings import ExampleSource, RunConfig
from llama2vec.pipeline.systems import read_documents_as
from llama2vec.records import Passage, TrainingExample
from llama2vec.terminal import counted

SAMPLE = 256
"""Texts of a source whose tokens are counted."""
_SAMPLED_FROM, _MOST_EXAMPLES = 20_000, 200_000
_RUNS = 16
"""Runs of consecutive passages that are tried for pairs, spread over the corpus."""
_QUESTION_WORDS, _KEPT = 10, 0.5
"""Of generated questions: their words, and the share that passes the filters."""


class Lengths(NamedTuple):
    """Token counts of sampled texts without prompts, the total number of texts, and their mean size in bytes.

    ``weights`` says how many texts each of the sampled ones stands for; without them, all stand for equally many.
    """

    tokens: Sequence[int]
    total: int
    bytes: float = 0.0
    weights: Sequence[float] = ()

    def mean(self, most: int, prompt: int) -> float:
        """Return the mean length of these texts, cut after ``most`` tokens, with their prompt."""
        if not self.tokens:
            return float(prompt)
        return fmean((min(count, most) for count in self.tokens), self.weights or None) + prompt

    def drawn(self, count: int, most: int, prompt: int) -> list[int]:
        """Return the lengths of so many of these texts, always the same."""
        if not self.tokens:
            return []
        draw = random.Random("lengths")
        return [min(one, most) + prompt for one in draw.choices(self.tokens, self.weights or None, k=count)]


class SampledPairs(NamedTuple):
    """Some examples of a source, and how many it has."""

    examples: Sequence[TrainingExample]
    total: int

    @property
    def weight(self) -> float:
        """How many examples each of the sampled ones stands for."""
        return self.total / len(self.examples) if self.examples else 0.0


class Samples:
    """Samples each source of texts of a run once.

    Attributes:
        prompt: Tokens of the longer prompt with its slots.
        notes: What was sampled, in sentences.

    Args:
        config: The run.
        labeled: Names the fields of all labeled sources; None = as the run reads each of them.
    """

    def __init__(self, config: RunConfig, labeled: ReadingSettings | None = None) -> None:
        self._config, self._tokenizer, self._read_as = config, load_tokenizer(config.model.name), labeled
        self.notes: list[str] = []
        self._corpora: dict[tuple[str, bool, ReadingSettings | None], Lengths] = {}
        self._splitters: dict[str, Splitter | None] = {}
        prompts = config.prompts
        both = [prompts.prefix + prompts.self_prompt, prompts.prefix + prompts.next_prompt]
        self.prompt = max(self.count(both)) + max(prompts.slots, 1)

    def count(self, texts: Iterable[str]) -> list[int]:
        """Return the tokens of each text."""
        texts = list(texts)
        return [len(ids) for ids in self._tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []

    def passages(
        self, source: str, *, whole: bool = False, reading: ReadingSettings | None = None
    ) -> Iterator[Passage]:
        """Read a corpus as its stages do: split, except for adaptation, which reads it ``whole``.

        Evaluation reads the corpora of its tasks with settings of its own: ``reading``.
        """
        config = self._config
        if reading is not None:
            return read_passages(source, settings=reading)
        if whole:
            return read_passages(source, settings=config.adapt.reading if config.adapt else None)
        if not is_read_first(config, source):
            return read_passages(source, settings=ReadingSettings())
        if source not in self._splitters:
            spec = read_documents_as(config)
            self._splitters[source] = corpus_splitter(source, spec, config.passages, config.reading)
        return read_passages(source, splitter=self._splitters[source], settings=config.reading)

    def corpus(self, source: str, *, whole: bool = False, reading: ReadingSettings | None = None) -> Lengths:
        """Sample a corpus evenly from its first passages; ``whole`` and ``reading`` are as in :meth:`passages`."""
        if reading is not None and not reading.choices and not is_read_first(self._config, source):
            reading = None  # Other stages read it alike
        key = (source, whole, reading)
        if key not in self._corpora:
            read = partial(self.passages, source, whole=whole, reading=reading)
            total = None if is_remote(source) else sum(1 for _ in read())
            head = min(total or _SAMPLED_FROM, _SAMPLED_FROM)
            every = max(1, head // SAMPLE)
            sample = [one.full_text for one in islice(read(), 0, head, every)]
            counts = self.count(sample)
            known = counted(total, "passage") if total else f"unknown size, counted as {head:,} passages"
            mean = f"{fmean(counts):,.0f} tokens each (mean of {len(counts)} from the first {head:,})"
            self.notes.append(f"{source}: {known}, {mean}")
            size = fmean(len(text.encode("utf-8", "replace")) for text in sample)
            self._corpora[key] = Lengths(counts, total or head, size)
        return self._corpora[key]

    @cached_property
    def _files(self) -> dict[str, SampledPairs]:
        """The pairs of each file that the run will write."""
        found: dict[str, SampledPairs] = {}
        for name, source in pair_files(self._config).items():
            if source:
                found[name] = self._labeled(source)
            else:
                found[name] = self._generated_pairs() if name == GENERATED_PAIRS else self._own_pairs()
        return found

    @cached_property
    def _weighted(self) -> list[tuple[TrainingExample, float]]:
        return [(example, one.weight) for one in self._files.values() for example in one.examples]

    @cached_property
    def pairs(self) -> tuple[Lengths, Lengths]:
        """The lengths of the queries and of the passages of the training pairs."""
        total, weights = sum(one.total for one in self._files.values()), [weight for _, weight in self._weighted]
        queries = self.count(example.query for example, _ in self._weighted)
        passages = self.count(example.positives[0] for example, _ in self._weighted)
        return Lengths(queries, total, weights=weights), Lengths(passages, total, weights=weights)

    def negatives(self, most: int | None = None) -> float:
        """Return the mean number of negatives of an example, of which at most so many count."""
        if not self._weighted:
            return 0.0
        there, weights = zip(*((len(example.negatives), weight) for example, weight in self._weighted), strict=True)
        return fmean((count if most is None else min(count, most) for count in there), weights)

    def passages_of(self, name: str) -> Lengths:
        """Return the lengths of all positives and negatives in one file of pairs, each as often as it occurs."""
        found = self._files[name]
        texts = [text for example in found.examples for text in (*example.positives, *example.negatives)]
        each = len(texts) / max(1, len(found.examples))
        drawn = texts[:: max(1, len(texts) // SAMPLE)]
        size = fmean(len(text.encode("utf-8", "replace")) for text in drawn) if drawn else 0.0
        return Lengths(self.count(drawn), round(each * found.total), size)

    def _labeled(self, source: ExampleSource) -> SampledPairs:
        reading = self._read_as or fields_of(self._config, source.source)
        whole = count_examples(source.source, split=source.split, reading=reading)
        most = min(source.limit or whole or _MOST_EXAMPLES, whole or _MOST_EXAMPLES)
        rows = read_examples(source.source, split=source.split, limit=most, reading=reading)
        if whole is None:
            found = list(islice(rows, SAMPLE))
            total = len(found) + sum(1 for _ in rows)
            stopped = total == _MOST_EXAMPLES and total != source.limit
        else:
            head, total, stopped = max(1, min(most, _SAMPLED_FROM)), most, False
            found = list(islice(rows, 0, head, max(1, head // SAMPLE)))
        least = "at least " if stopped else ""
        self.notes.append(f"{source.source}: {least}{counted(total, 'labeled query', 'labeled queries')}")
        return SampledPairs(found, total)

    def _own_pairs(self) -> SampledPairs:
        settings, source = self._config.pairs, self._config.corpus
        assert settings
        assert settings.from_corpus
        # The limit says how many passages give pairs; here it must not cut the sample.
        kinds, runs = settings.from_corpus.model_copy(update={"limit": 0}), self._runs(source)
        found: list[TrainingExample] = []
        for run in runs:
            with suppress(EmptyCorpusError):
                found += pairs_from_corpus(run, kinds, settings.seed)
        read, total = sum(map(len, runs)), self.corpus(source).total
        sampled = f"{counted(read, 'passage')}{' spread over the corpus' if len(runs) > 1 else ''}"
        if not found:
            self.notes.append(f"{source}: no pair in {sampled}; its pairs are not counted")
            return SampledPairs([], 0)
        each = len(found) / read
        self.notes.append(f"{source}: {each:.1f} pairs per passage (from {sampled})")
        count = max(1, round(each * min(settings.from_corpus.limit or total, total)))
        return SampledPairs(found[:: max(1, len(found) // SAMPLE)], count)

    def _runs(self, source: str) -> list[list[Passage]]:
        """Return runs of consecutive passages, because a pair may need its passage's neighbors, over the corpus."""
        total = self.corpus(source).total
        length, last = 2 * SAMPLE // _RUNS, _RUNS - 1
        if total <= 2 * SAMPLE:
            return [list(islice(self.passages(source), total))]
        passages, runs, read = self.passages(source), list[list[Passage]](), 0
        for number in range(_RUNS):
            begin = number * (total - length) // last
            runs.append(list(islice(passages, begin - read, begin - read + length)))
            read = begin + length
        return runs

    def _generated_pairs(self) -> SampledPairs:
        """Stand in for questions that are not written yet: as many first words of their passages."""
        passages = [one for run in self._runs(self._config.corpus) for one in run][::2]
        found = [TrainingExample(first_words(one.text, _QUESTION_WORDS) or "?", (one.full_text,)) for one in passages]
        asked, each = self.asked()
        written = f"{counted(each, 'question')} for each of {counted(asked, 'passage')}"
        self.notes.append(f"{written}; half of them are assumed to pass the filters")
        return SampledPairs(found, round(asked * each * _KEPT))

    def asked(self) -> tuple[int, int]:
        """Return how many passages get questions, and how many each."""
        assert self._config.pairs
        assert self._config.pairs.generated
        settings, total = self._config.pairs.generated, self.corpus(self._config.corpus).total
        return min(settings.passages or total, total), settings.questions
