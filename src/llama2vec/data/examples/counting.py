"""How many examples a source holds, from its lines alone, and those that a limit takes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from llama2vec.data.corpus.spread import spread
from llama2vec.data.examples.labeled import read_examples
from llama2vec.data.examples.msmarco import HEADERS, ID_TRIPLES, find_id_triples
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.tasks.beir import read_beir
from llama2vec.data.text.lines import numbered_lines
from llama2vec.errors import ExampleFormatError
from llama2vec.records import TrainingExample
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)


def limited_examples(
    source: str, limit: int, *, split: str = "train", reading: ReadingSettings | None = None, first: bool = False
) -> Iterator[TrainingExample]:
    """Stream at most ``limit`` examples of a source, spread evenly over it; 0 = all. A log line says which.

    The lines of a local source are counted first; a Hugging Face dataset gives its first examples.

    Args:
        source: As in :func:`llama2vec.data.examples.labeled.read_examples`, like ``split`` and ``reading``.
        limit: How many.
        split: Which split.
        reading: Names the fields of a BEIR folder's rows.
        first: Take the first ones everywhere.
    """
    total = count_examples(source, split=split, reading=reading) if limit and not first else None
    if total is None:
        if limit:
            why = "" if first else ", because it is not counted before it is read"
            logger.info("%s: at most its first %s%s", source, counted(limit, "example"), why)
        yield from read_examples(source, split=split, limit=limit or None, reading=reading)
        return
    if limit < total:
        logger.info("%s: %s of %s, spread evenly", source, f"{limit:,}", counted(total, "example"))
    yield from spread(read_examples(source, split=split, reading=reading), limit, total)


def count_examples(source: str | Path, *, split: str = "train", reading: ReadingSettings | None = None) -> int | None:
    """Return how many examples a local source of :func:`read_examples` holds, read to its end; None for ``hf:``.

    Rows are not parsed, so one that is faulty counts too.

    Raises:
        DataError: A file that cannot be read to its end.
    """
    if str(source).startswith("hf:"):
        return None
    path = Path(source)
    is_folder, name = path.is_dir(), path.name.lower()
    names = [one.name.lower() for one in path.iterdir()] if is_folder else [name]
    if any(one.startswith(ID_TRIPLES) for one in names):
        triples = numbered_lines(find_id_triples(path, split).triples, ExampleFormatError)
        # Consecutive lines of one query are one example.
        return sum(1 for _ in groupby(triples, key=lambda line: line[1].partition("\t")[0]))
    if is_folder:
        task = read_beir(path, split, reading)
        return sum(any(gain > 0 for gain in task.qrels[query.id].values()) for query in task.queries)
    lines = (line for _, line in numbered_lines(path, ExampleFormatError))
    if name.endswith((".tsv", ".tsv.gz")):
        return sum(line.lower().split("\t") not in HEADERS for line in lines)
    return sum(1 for _ in lines)
