"""``llama2vec compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.errors import ConfigError, OutputExistsError

if TYPE_CHECKING:
    from llama2vec.records import Qrels, Query


def compare_command(
    runs: Annotated[list[Path], typer.Argument(help="TREC runs of any system; the first is the baseline.")],
    data: Annotated[
        Path | None, typer.Option(help="BEIR folder: judgments, and the texts of queries and passages.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which qrels of the folder; left out = test.")] = None,
    qrels: Annotated[Path | None, typer.Option(help="TREC or BEIR judgments instead of the folder's.")] = None,
    measures: Annotated[
        list[str] | None, typer.Option("--measure", help="nDCG@10 (the default), MRR@10, R@100, …; may be repeated.")
    ] = None,
    all_pairs: Annotated[bool, typer.Option(help="Compare every pair, not each run with the first only.")] = False,
    changed: Annotated[int, typer.Option(min=0, help="Queries listed per pair, that gained and that lost.")] = 5,
    passages: Annotated[int, typer.Option(min=0, help="Passages shown per listed query and run.")] = 2,
    flips: Annotated[int, typer.Option(min=1, help="Random sign patterns of the randomization test.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same numbers.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write everything here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables here.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace --json and --markdown.")] = False,
) -> None:
    """Test whether one run is better than another, query by query."""
    _check_outputs(json, markdown, overwrite)
    from rich.console import Console

    from llama2vec.files import write_output
    from llama2vec.score.comparison import ComparisonOptions, compare_measures, write_comparisons
    from llama2vec.score.comparison_report import markdown_comparison, rich_comparison
    from llama2vec.score.run_texts import check_same_corpus, read_named_runs, task_beside, with_texts

    task, judgments, queries = _judgments(data, split, qrels)
    named = read_named_runs(runs)
    check_same_corpus(runs, str(data) if data else None)
    options = ComparisonOptions(all_pairs, changed, passages, flips, seed=seed)
    wanted = list(dict.fromkeys(measures or ["nDCG@10"]))
    comparisons = compare_measures(named, judgments, measures=wanted, task=task_beside(runs) or task, options=options)
    if data:
        comparisons = with_texts(comparisons, named, queries, str(data))
    if json:
        write_comparisons(json, comparisons, overwrite=overwrite)
    if markdown:
        write_output(markdown, "\n".join(map(markdown_comparison, comparisons)), overwrite=overwrite)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)
    for comparison in comparisons:
        console.print(rich_comparison(comparison))
        console.print()
    written = [str(path) for path in (json, markdown) if path]
    if written:
        typer.echo(f"Wrote {' and '.join(written)}")


def _check_outputs(json: Path | None, markdown: Path | None, overwrite: bool) -> None:
    if json and json == markdown:
        raise ConfigError(f"{json} cannot be both --json and --markdown; name two files")
    for path in (json, markdown):
        if path and path.exists() and not overwrite:
            raise OutputExistsError(f"{path} exists already; choose another path or --overwrite")


def _judgments(data: Path | None, split: str | None, qrels: Path | None) -> tuple[str, Qrels, list[Query]]:
    """Return the task's name, its judgments and, where there is a folder, its queries."""
    from llama2vec.data.beir import read_beir
    from llama2vec.data.corpus import read_queries
    from llama2vec.data.trec import read_qrels

    if qrels is None and data is None:
        raise ConfigError("there are no judgments; give --data BEIR_FOLDER or --qrels FILE")
    if qrels is not None and split is not None:
        raise ConfigError("--split names judgments of --data and --qrels brings its own; leave one of them out")
    if qrels is not None:
        return _task_name(qrels), read_qrels(qrels), read_queries(data) if data else []
    task = read_beir(str(data), split or "test")
    return task.name, task.qrels, task.queries


def _task_name(qrels: Path) -> str:
    """Return a name for a judgment file.

    >>> _task_name(Path("data/cranfield/qrels/test.tsv")), _task_name(Path("dl19.txt.gz"))
    ('cranfield/test', 'dl19')
    """
    stem = Path(qrels.name.removesuffix(".gz")).stem
    return f"{qrels.parent.parent.name}/{stem}" if qrels.parent.name == "qrels" and qrels.parent.parent.name else stem
