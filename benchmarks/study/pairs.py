"""The pairs for fine-tuning: drawn and mined once per seed, then the same for every adaptation."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from benchmarks.study.protocol import ALL_PAIRS, FinetuningStage
from llama2vec.data.corpus.passages import corpus_fingerprint, read_passages
from llama2vec.data.examples.labeled import named_fingerprint, read_examples, write_examples
from llama2vec.data.examples.unlabeled import pairs_from_corpus
from llama2vec.data.settings import CorpusPairSettings
from llama2vec.errors import DataError
from llama2vec.files import file_sha256, write_json
from llama2vec.manifest import digest
from llama2vec.mine.candidates import Bm25Searcher, passages_of_examples
from llama2vec.mine.mining import mine
from llama2vec.mine.settings import MineSettings
from llama2vec.records import TrainingExample

logger = logging.getLogger(__name__)


def training_pairs(
    stage: str, count: int, seed: int, settings: FinetuningStage, data: Path, work: Path
) -> list[TrainingExample]:
    """Return the examples of a second stage; the first call writes them into the work folder.

    Args:
        stage: ``labels`` or ``corpus``.
        count: How many, as evenly over the sources as they allow; ``ALL_PAIRS`` = all. A smaller count is a subset.
        seed: Sampling seed.
        settings: Sources and numbers.
        data: Data folder.
        work: The folder whose ``pairs/`` keeps the files.

    Raises:
        DataError: The sources have fewer pairs, or a file of pairs was changed.
    """
    path = work / "pairs" / f"{stage}-seed{seed}.jsonl.gz"
    sizes = _prepared(path, stage, seed, settings, data)
    examples = list(read_examples(path))
    if count == ALL_PAIRS:
        return examples
    if count > len(examples):
        raise DataError(f"{count:,} pairs were requested, but the sources have {len(examples):,}; lower pairs_curve")
    return even_part(examples, sizes, count)


def even_part(examples: Sequence[TrainingExample], sizes: Sequence[int], count: int) -> list[TrainingExample]:
    """Take pairs from each source in turn until there are ``count``, keeping their order.

    >>> [row.query for row in even_part([TrainingExample(name, ("p",)) for name in "abcde"], [4, 1], 3)]
    ['a', 'b', 'e']
    """
    turns = [(turn, source) for source, size in enumerate(sizes) for turn in range(size)]
    taken = set(sorted(turns)[:count])
    return [example for turn, example in zip(turns, examples, strict=True) if turn in taken]


def _prepared(path: Path, stage: str, seed: int, settings: FinetuningStage, data: Path) -> list[int]:
    """Write the file of pairs if it is missing, and return how many pairs each source gave."""
    note = path.with_name(f"{path.name}.json")
    decides = digest([stage, seed, settings.model_dump(), input_fingerprints(settings, data)])
    if note.is_file() and path.is_file():
        found = json.loads(note.read_text(encoding="utf-8"))
        if found["decides"] != decides or found["sha256"] != file_sha256(path):
            raise DataError(
                f"{path} was made from other data or settings, or was edited; choose another --work, or delete it"
            )
        sizes: list[int] = found["sizes"]
        return sizes
    by_source = _labeled(settings, seed, data) if stage == "labels" else _from_corpora(settings, seed, data)
    examples = [example for rows in by_source for example in rows]
    if stage == "labels":
        logger.info("mining negatives for %d pairs with BM25, once for seed %d", len(examples), seed)
        passages = passages_of_examples(examples)
        mining = MineSettings(negatives=settings.negatives, last_rank=settings.last_rank)
        examples = mine(examples, passages, [Bm25Searcher(passages)], mining).examples
    path.parent.mkdir(parents=True, exist_ok=True)
    write_examples(examples, path, overwrite=True)
    sizes = [len(rows) for rows in by_source]
    write_json(note, {"decides": decides, "sha256": file_sha256(path), "sizes": sizes})
    return sizes


def input_fingerprints(settings: FinetuningStage, data: Path) -> dict[str, str]:
    """Return a fingerprint of every source that pairs are drawn from."""
    found = {source: named_fingerprint(data / source) for source in settings.sources}
    return found | {f"corpus of {name}": corpus_fingerprint(data / name) for name in settings.corpus_sets}


def _labeled(settings: FinetuningStage, seed: int, data: Path) -> list[list[TrainingExample]]:
    """Draw the same number of labeled pairs from every source; ids get the source's number as a prefix."""
    drawn: list[list[TrainingExample]] = []
    place = 0
    for source in settings.sources:
        rows = list(read_examples(data / source))
        count = min(settings.pairs_per_source or len(rows), len(rows))
        taken = []
        for row in random.Random(f"{source}:{seed}").sample(rows, count):
            query_id = f"{place}:{row.query_id}" if row.query_id else ""
            taken.append(TrainingExample(row.query, row.positives, query_id=query_id))
            place += 1
        drawn.append(taken)
    return drawn


def _from_corpora(settings: FinetuningStage, seed: int, data: Path) -> list[list[TrainingExample]]:
    """Make the same number of pairs from each searched corpus, without queries or labels."""
    drawn = []
    for name in settings.corpus_sets:
        passages = list(read_passages(data / name))
        random.Random(f"{name}:{seed}").shuffle(passages)
        marked = (replace(passage, id=f"{name}/{passage.id}") for passage in passages)
        # Draw more than needed: neighboring pairs come from one passage.
        pairs = list(islice(pairs_from_corpus(marked, CorpusPairSettings(), seed), 4 * settings.corpus_pairs))
        draw = random.Random(f"{name}:{seed}")
        drawn.append(draw.sample(pairs, min(settings.corpus_pairs, len(pairs))))
    return drawn
