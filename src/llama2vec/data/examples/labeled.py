"""Labeled training data in the usual shapes, streamed: JSONL, Tevatron, BEIR folders, MS MARCO, Hugging Face."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from llama2vec.data.corpus.passages import corpus_sha256, files_fingerprint, read_passages
from llama2vec.data.corpus.sources import beir_file, open_hub_dataset, reported
from llama2vec.data.examples.msmarco import ID_TRIPLES, find_id_triples, id_triple_rows, text_triple_rows
from llama2vec.data.examples.rows import (
    SUCH_AS,
    ExampleRow,
    Problem,
    Problems,
    example_problems,
    parse_row,
    unread_fields,
)
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.tasks.beir import read_beir
from llama2vec.data.text.lines import json_object, numbered_lines
from llama2vec.data.text.words import text_key
from llama2vec.errors import ConfigError, ExampleFormatError
from llama2vec.files import FileKind, write_output
from llama2vec.manifest import digest
from llama2vec.records import TrainingExample
from llama2vec.terminal import counted, first_few

logger = logging.getLogger(__name__)

_WHOLE = "train"  # The split where none is chosen
_KINDS = (
    "a .jsonl with query, pos and neg, a BEIR folder with qrels, MS MARCO's triples*.tsv or a folder with "
    f"{ID_TRIPLES}*.tsv (any file also .gz), or hf:NAME"
)


def read_examples(
    source: str | Path, *, split: str = "train", limit: int | None = None, reading: ReadingSettings | None = None
) -> Iterator[TrainingExample]:
    r"""Stream labeled training examples, in the order of the source.

    Sources, and where query, positives and negatives come from:

    - ``.jsonl``, ``.jsonl.gz``: ``query``, ``pos``, ``neg``, and optionally ``pos_scores``, ``neg_scores``,
      ``query_id``, ``pos_ids``, ``neg_ids``; or ``anchor``, ``positive``, ``negative``; or Tevatron's ``query_id``,
      ``query``, ``positive_passages``, ``negative_passages`` with ``docid``, ``title`` and ``text``, where the title
      is prepended to the text. Any other field is an error;
    - a BEIR folder: the queries judged in ``qrels/<split>.tsv`` and their passages. A gain above 0 makes a positive,
      a gain of 0 a negative. Only judged texts are kept in memory;
    - ``.tsv``, ``.tsv.gz``: MS MARCO's text triples ``query⇥positive⇥negative``;
    - a folder with MS MARCO's ``qidpidtriples*.tsv``, or that file: id triples, looked up in ``queries*.tsv`` and
      ``collection*.tsv`` of the same folder; consecutive lines of one query make one example;
    - ``hf:NAME[:CONFIG][:SPLIT]``: a Hugging Face dataset, streamed, with the columns of one of the JSONL kinds;
      a log line names the columns that are ignored.

    Lines end with ``\n`` or ``\r\n``; blank lines are skipped.

    Args:
        source: One of the above.
        split: Split of a BEIR folder, an MS MARCO folder, or an ``hf:`` source that does not name one. A single file
            has no splits.
        limit: Stop after this many examples; None = all.
        reading: Names the fields of a BEIR folder's rows; None = the usual ones.

    Raises:
        ConfigError: ``limit`` is below 1, or ``split`` is chosen of a single file.
        DataError: No such source, no row, or a faulty one: the message names file and line.
        MissingDependencyError: ``hf:`` without its package.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; ask for at least 1 example")
    return islice(_examples(scan_examples(source, split=split, reading=reading), str(source)), limit)


_FILE = FileKind("training examples", rb'\{"query": |\x1f\x8b')


def scan_examples(
    source: str | Path, *, split: str = "train", reading: ReadingSettings | None = None
) -> Iterator[ExampleRow]:
    """Stream every row of a source of :func:`read_examples`: an example or the row's problems."""
    where = str(source)
    if where.startswith("hf:"):
        return _hub_rows(open_hub_dataset(where, split), where)
    return _locate(where, split, reading).rows()


def examples_fingerprint(source: str | Path, *, split: str = "train") -> str:
    """Return a sha256 over what a source holds; for ``hf:`` the source itself.

    It covers the bytes of all files, with the kind of a single file and the relative names of several.

    Raises:
        ConfigError: ``split`` is chosen of a single file.
        DataError: No such source, or an unreadable file.
    """
    if not is_single_file(source):
        return named_fingerprint(source, split=split)
    (path,) = _locate(str(source), split).paths
    try:
        content = corpus_sha256(path)
    except OSError as error:
        raise ExampleFormatError(f"{path} cannot be read ({error.strerror}); check the path") from None
    return digest(["tsv" if path.name.lower().endswith((".tsv", ".tsv.gz")) else "jsonl", content])


def named_fingerprint(source: str | Path, *, split: str = "train") -> str:
    """Return the fingerprint that counts the name of a single file, too; otherwise as :func:`examples_fingerprint`.

    Earlier versions wrote it everywhere; plans whose settings name the file still have it.
    """
    where = str(source)
    if where.startswith("hf:"):
        return f"{where}#{split}"
    files = _locate(where, split)
    return files_fingerprint(files.root, files.paths, ExampleFormatError)


def is_single_file(source: str | Path) -> bool:
    """Whether a source is one file without splits; a file of id triples belongs to a folder, whose splits it has."""
    path = Path(source)
    return not str(source).startswith("hf:") and not path.name.lower().startswith(ID_TRIPLES) and path.is_file()


def splits_of(sources: Sequence[str], split: str) -> list[str]:
    """Return the split to read of each source: single files have none, and are read whole beside sources with splits.

    Raises:
        ConfigError: A split is chosen, and all sources are single files.
    """
    if sources and split != _WHOLE and all(map(is_single_file, sources)):
        raise _no_splits(sources[0], split)
    return [_WHOLE if is_single_file(source) else split for source in sources]


def _no_splits(where: str, split: str) -> ConfigError:
    return ConfigError(f"{where} is a file, which has no splits; drop the split {split!r}")


def write_examples(examples: Iterable[TrainingExample], path: str | Path, *, overwrite: bool = False) -> int:
    """Write examples as JSONL, or gzip (``.gz``); :func:`read_examples` returns the same examples.

    The write is atomic and streams: equal examples give equal bytes. Returns how many were written.

    Raises:
        OutputExistsError: The file exists and ``overwrite`` is not given, or it holds anything but training examples.
        DataError: Another suffix, no example, one with a problem, or a file that cannot be written.
    """
    path = Path(path)
    name = path.name.lower()
    if not name.endswith((".jsonl", ".jsonl.gz")):
        raise ExampleFormatError(f"{path}: training examples are written as .jsonl or .jsonl.gz; name the file so")
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        for count, example in enumerate(examples, start=1):
            problems = example_problems(example, f"{path}: example {count}")
            if problems:
                raise ExampleFormatError(problems[0].message)
            yield (json.dumps(_fields(example), ensure_ascii=False) + "\n").encode()
        if not count:
            raise ExampleFormatError(f"{path}: no examples to write; give at least one")

    write_output(path, _gzipped(lines()) if name.endswith(".gz") else lines(), _FILE, overwrite=overwrite)
    return count


def _examples(rows: Iterable[ExampleRow], where: str) -> Iterator[TrainingExample]:
    empty = True
    for row in rows:
        empty = False
        if row.example is None:
            raise ExampleFormatError(row.problems[0].message)
        yield row.example
    if empty:
        raise no_rows(where)


def no_rows(where: str) -> ExampleFormatError:
    """Return the error for a source without rows."""
    return ExampleFormatError(f"{where} contains no training examples; give {_KINDS} with at least one row")


def _fields(example: TrainingExample) -> dict[str, Any]:
    fields = {
        "query": example.query, "pos": example.positives, "neg": example.negatives, "query_id": example.query_id,
        "pos_ids": example.positive_ids, "neg_ids": example.negative_ids,
        "pos_scores": example.positive_scores, "neg_scores": example.negative_scores,
    }  # fmt: skip
    return {name: value for name, value in fields.items() if value or name == "neg"}


def _gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    # zlib's gzip header has no name and no time, so equal content gives equal files.
    packer = zlib.compressobj(level=6, wbits=16 + zlib.MAX_WBITS)
    for chunk in chunks:
        yield packer.compress(chunk)
    yield packer.flush()


# ------------------------------------------------------------------------------------------------------- sources


class _Located(NamedTuple):
    root: Path
    paths: tuple[Path, ...]
    rows: Callable[[], Iterator[ExampleRow]]


def _locate(where: str, split: str, reading: ReadingSettings | None = None) -> _Located:
    source = Path(where)
    if not where.strip():
        raise ExampleFormatError(f"the name of the training data is empty; give {_KINDS}")
    if not source.exists():
        raise ExampleFormatError(f"{where}: no such file or folder; give {_KINDS}")
    name = source.name.lower()
    is_table = name.endswith((".tsv", ".tsv.gz"))
    if source.is_dir():
        if any(path.name.lower().startswith(ID_TRIPLES) for path in source.iterdir()):
            return _locate_id_triples(source, split)
        if (source / "qrels").is_dir():
            return _locate_beir(source, split, reading)
        raise ExampleFormatError(f"{where} contains no qrels folder and no {ID_TRIPLES}*.tsv; give {_KINDS}")
    if is_table and name.startswith(ID_TRIPLES):
        return _locate_id_triples(source, split)
    if not is_table and not name.endswith((".jsonl", ".jsonl.gz")):
        raise ExampleFormatError(f"{where}: unknown kind of file; give {_KINDS}")
    if split != _WHOLE:
        raise _no_splits(where, split)
    read = text_triple_rows if is_table else _jsonl_rows
    return _Located(source.parent, (source,), lambda: read(source))


def _locate_id_triples(source: Path, split: str) -> _Located:
    files = find_id_triples(source, split)
    return _Located(files.triples.parent, files, lambda: id_triple_rows(files))


def _locate_beir(folder: Path, split: str, reading: ReadingSettings | None) -> _Located:
    qrels = folder / "qrels" / f"{split}.tsv"
    if not qrels.is_file():
        splits = ", ".join(sorted(path.stem for path in qrels.parent.glob("*.tsv"))) or "none"
        raise ExampleFormatError(f"{folder} has no qrels/{split}.tsv; splits here: {splits}")
    corpus = beir_file(folder, "corpus") or folder / "corpus.jsonl"
    queries = beir_file(folder, "queries") or folder / "queries.jsonl"
    return _Located(folder, (corpus, queries, qrels), lambda: _beir_rows(folder, split, reading))


def _jsonl_rows(path: Path) -> Iterator[ExampleRow]:
    for number, line in numbered_lines(path, ExampleFormatError):
        where = f"{path}:{number}"
        try:
            values = json_object(line, where, SUCH_AS, ExampleFormatError)
        except ExampleFormatError as error:
            yield ExampleRow(where, None, (Problem("unreadable", where, str(error)),))
            continue
        yield parse_row(values, where)


def _hub_rows(dataset: Iterable[Any], where: str) -> Iterator[ExampleRow]:
    for number, values in enumerate(reported(dataset, where)):
        if number == 0 and (unread := unread_fields(values)):
            logger.info("%s: ignored columns: %s", where, ", ".join(unread))
        yield parse_row(values, f"{where}, row {number},", strict=False)


def _beir_rows(folder: Path, split: str, reading: ReadingSettings | None) -> Iterator[ExampleRow]:
    task = read_beir(folder, split, reading)
    # The meaning of a gain below 0, such as spam, differs between collections: such passages are not used.
    judged = {passage_id for gains in task.qrels.values() for passage_id, gain in gains.items() if gain >= 0}
    texts = {
        passage.id: passage.full_text for passage in read_passages(folder, settings=reading) if passage.id in judged
    }
    without: list[str] = []
    for query in task.queries:
        gains = task.qrels[query.id]
        problems = Problems(f"{folder / 'qrels' / split}.tsv, query {query.id!r},")
        positives = [passage_id for passage_id, gain in gains.items() if gain > 0]
        if not positives:
            without.append(query.id)
            continue
        for passage_id in gains:
            if passage_id in judged and passage_id not in texts:
                problems.add("unknown id", f"judges passage {passage_id!r}, which is not in the corpus; add it there")
        positives = [passage_id for passage_id in positives if passage_id in texts]
        known = {"", *(text_key(texts[passage_id]) for passage_id in positives)}
        # A passage of gain 0 was seen by a person and found not relevant: the best negative, unless its text occurs
        # in the corpus a second time and was judged relevant there.
        negatives = [
            passage_id
            for passage_id, gain in gains.items()
            if gain == 0 and passage_id in texts and text_key(texts[passage_id]) not in known
        ]
        yield problems.row(
            TrainingExample(
                query=query.text,
                positives=tuple(map(texts.__getitem__, positives)),
                negatives=tuple(map(texts.__getitem__, negatives)),
                query_id=query.id,
                positive_ids=tuple(positives),
                negative_ids=tuple(negatives),
            )
        )
    if without:
        total = counted(len(task.queries), "judged query", "judged queries")
        verbs = ("has", "is") if len(without) == 1 else ("have", "are")
        rest = "{} no relevant passage and {} left out".format(*verbs)
        where, named = folder / "qrels" / f"{split}.tsv", first_few([*map(repr, without)])
        logger.warning("%s: %s of %s %s (%s)", where, f"{len(without):,}", total, rest, named)
