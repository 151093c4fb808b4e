"""The whole story in one script: real documentation, a real small LLM, adapted, indexed, searched, scored.

    make demo          # or: python examples/demo.py --output runs/demo

Every step is kept below the output folder; a second run finds it there and takes seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import numpy as np
from python_documentation import write_task
from rich.console import Console

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.adapt.stage import adapt_model
from llama2vec.cli.ask import READY_MODEL
from llama2vec.config import EncoderSettings, ModelSettings, load_config
from llama2vec.data.corpus.passages import corpus_fingerprint, read_passages
from llama2vec.data.tasks.beir import BeirTask, read_beir
from llama2vec.data.tasks.trec import read_run
from llama2vec.manifest import machine, versions
from llama2vec.model.encoder import Encoder
from llama2vec.model.source import ModelSpec, resolve_model
from llama2vec.records import Passage, Query, Report, Run
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.search.fusion import Mode
from llama2vec.retrieve.search.hits import location, snippet
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.store.writer import write_store
from llama2vec.retrieve.syncing import Following
from llama2vec.score.metrics import evaluate_run
from llama2vec.score.report.text import system_markdown, system_tables
from llama2vec.score.results import Result, write_result
from llama2vec.terminal import display

RECIPE = Path(__file__).parent.parent / "recipes" / "demo.toml"
QUESTION = "How do I open a web page in the browser?"
RERANKED = 50
# Chapters of Python's manual, each of some 500 lines; the answer stands in the middle of one.
CHAPTERS = ("formatstrings", "typesseq")
QUESTION_TO_CHAPTERS = "How do I print a number with a comma as its thousands separator?"
# Every sixth first sentence is a query. Training reads the passages only, never a query.
QUERY_STEP = 6


class Made(NamedTuple):
    """Names of what a model gives: its two systems, and folders of the demo."""

    vectors: str
    hybrid: str
    store: str
    index: str


READY = Made("ready", "ready-hybrid", "ready-store", "ready-index")
ADAPTED = Made("adapted", "hybrid", "store", "index")
console = Console(width=None if sys.stdout.isatty() else 110)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--output", type=Path, default=Path("runs/demo"))
    options.add_argument("--set", action="append", default=[], help="change the recipe: section.key=value")
    arguments = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "accelerate", "bm25s", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    run_demo(arguments.output, load_config(AdaptConfig, RECIPE, arguments.set))


def run_demo(output: Path, config: AdaptConfig, ready: str = READY_MODEL) -> None:
    """Do every step that is not done yet, and print one table."""
    started = time.monotonic()
    task, passages = prepare_task(output / "data")
    lexical = Bm25Index.build(passages)
    reports = [score_bm25(lexical, task, passages, output)]
    display(*system_tables(reports), "BM25 is done; now the model that comes with llama2vec, as it is.")
    encoder = Encoder.load(ready)
    if not (output / READY.store).is_dir():
        rerank_the_first(encoder, lexical, passages)
    reports += score_encoder(encoder, task, passages, output, READY)
    display(*system_tables(reports), "That needed no training. Now the method: a raw LLM, before and after it.\n")
    reports += score_raw(task, passages, config, output)
    display(*system_tables(reports), "The raw LLM retrieves poorly. Adapting it on the passages, without labels.\n")
    config = config.model_copy(update={"text": config.text.model_copy(update={"corpus": str(output / "data")})})
    encoder = adapt_model(config, output / "adapted")
    reports += score_encoder(encoder, task, passages, output, ADAPTED)
    finish(output, reports, encoder, time.monotonic() - started)
    answer_from_long_documents(output, ready)


def prepare_task(folder: Path) -> tuple[BeirTask, list[Passage]]:
    """Build corpus and queries once; return the held-out queries' task and all passages."""
    if not (folder / "qrels" / "test.tsv").is_file():
        write_task(folder)
    task = read_beir(folder)
    asked = task.queries[::QUERY_STEP]
    task = dataclasses.replace(
        task, name="python-documentation", queries=asked, qrels={query.id: task.qrels[query.id] for query in asked}
    )
    passages = list(read_passages(folder))
    words = sum(len(passage.text.split()) for passage in passages)
    console.print(f"Python's own documentation: {len(passages):,} passages, {words:,} words, {len(asked)} queries.")
    return task, passages


def score_bm25(lexical: Bm25Index, task: BeirTask, passages: list[Passage], output: Path) -> Report:
    """Score BM25 and show its answer to one question."""
    texts = {passage.id: passage.text for passage in passages}
    worked = lexical.search([Query("worked", QUESTION)], depth=3).ranking("worked")
    show_answer("BM25", [(found, texts[found], value) for found, value in worked])
    return score(lexical.search(task.queries, depth=1000), task, output, "bm25")


def rerank_the_first(encoder: Encoder, lexical: Bm25Index, passages: list[Passage]) -> None:
    """Show the model's answer among BM25's first passages, minutes before it has read all of them."""
    found = {name for name, _ in lexical.search([Query("worked", QUESTION)], depth=RERANKED).ranking("worked")}
    candidates = [passage for passage in passages if passage.id in found]
    cosines = encoder.encode_passages(candidates) @ encoder.encode_queries([QUESTION])[0]
    best = [(candidates[row].id, candidates[row].text, float(cosines[row])) for row in np.argsort(-cosines)[:3]]
    show_answer(f"ready, among BM25's first {RERANKED}, by cosine", best)


def show_answer(system: str, hits: list[tuple[str, str, float]]) -> None:
    """Print one worked search: (passage id, text, score), best first."""
    console.print(f"\n{QUESTION}  [{system}]", style="bold", markup=False)
    for rank, (found, text, value) in enumerate(hits, start=1):
        console.print(
            f"{rank:>3}. {value:.2f}  {found}\n     {snippet(text, QUESTION, 150)}", markup=False, highlight=False
        )
    console.print()


def score(run: Run, task: BeirTask, output: Path, system: str) -> Report:
    """Score a run, and write it with its scores and its values per query as ``llama2vec evaluate`` does."""
    named = dataclasses.replace(run, tag=system)
    report = evaluate_run(named, task.qrels, task=task.name)
    facts = {**report.settings, "machine": machine(), "versions": versions()}
    write_result(output / "scores" / system, Result(dataclasses.replace(report, settings=facts), 0.0), named)
    return report


def score_raw(task: BeirTask, passages: list[Passage], config: AdaptConfig, output: Path) -> list[Report]:
    """Score the unadapted LLM with both usual poolings, in one pass over the corpus."""
    kept = output / "raw.npz"
    settings = config.encoder
    if not kept.is_file():
        # Read by the stock layers, so that the scores do not depend on whether a compiler is installed.
        encoder = Encoder.load(
            config.model.name, settings=ModelSettings(compile=False), prompts=config.prompts, encoder=EncoderSettings()
        )
        texts = [passage.full_text for passage in passages]
        asked = [query.text for query in task.queries]
        found = {
            **{f"passages-{name}": rows for name, rows in _both(encoder, texts, settings.passage_max_tokens).items()},
            **{f"queries-{name}": rows for name, rows in _both(encoder, asked, settings.query_max_tokens).items()},
        }
        partial = output / ".raw.partial.npz"
        np.savez(partial, **found)
        partial.replace(kept)
    vectors = np.load(kept)
    reports = []
    for pooling, system in (("mean", "raw-mean"), ("slots", "raw-prompted")):
        scores = vectors[f"queries-{pooling}"] @ vectors[f"passages-{pooling}"].T
        results = {
            query.id: {passages[row].id: float(scores[place, row]) for row in np.argsort(-scores[place])[:1000]}
            for place, query in enumerate(task.queries)
        }
        reports.append(score(Run(results), task, output, system))
    return reports


def _both(encoder: Encoder, texts: list[str], max_tokens: int) -> dict[str, np.ndarray]:
    logging.info("encoding %d texts with the raw LLM", len(texts))
    return dict(encoder.encode_poolings(texts, "self", max_tokens))


def score_encoder(encoder: Encoder, task: BeirTask, passages: list[Passage], output: Path, made: Made) -> list[Report]:
    """Encode, index and search with a model, alone and together with BM25, as the command line does."""
    store, index = output / made.store, output / made.index
    source = {
        "corpus": str(output / "data"),
        "fingerprint": corpus_fingerprint(output / "data"),
        "model": encoder.spec.to_json(store),
    }
    write_store(lambda: iter(passages), encoder, store, source=source, shard_size=512, total=len(passages))
    build_index(store, index, bm25="en")
    reports = []
    retriever = Retriever.open(index, encoder)
    modes: dict[str, Mode] = {made.vectors: "dense", made.hybrid: "hybrid"}
    for system, mode in modes.items():
        kept = output / "scores" / system / f"{task.name}.trec"
        # A run newer than the index comes from it, so the queries need not be embedded again.
        is_new = kept.is_file() and kept.stat().st_mtime >= (index / "bm25").stat().st_mtime
        run = read_run(kept) if is_new else retriever.search(task.queries, mode, 1000)
        reports.append(score(run, task, output, system))
    return reports


def finish(output: Path, reports: list[Report], encoder: Encoder, seconds: float) -> None:
    """Write the report, print the table and one worked search by the vectors, and together with BM25."""
    (output / "report.md").write_text(f"# Scores\n\n{system_markdown(reports)}\n", encoding="utf-8")
    display(*system_tables(reports))
    retriever = Retriever.open(output / ADAPTED.index, encoder)
    answers: dict[str, Mode] = {"adapted": "dense", "hybrid: adapted + BM25": "hybrid"}
    for name, mode in answers.items():
        hits = retriever.hits(QUESTION, mode, 3)
        show_answer(name, [(hit.passage.id, hit.passage.text, hit.score) for hit in hits])
    results = json.loads((output / "adapted" / "manifest.json").read_text(encoding="utf-8"))["results"]
    console.print(
        f"\nAdapted in {results['steps']} steps, {results['seconds']:,.0f} s. All in {seconds:,.0f} s.\n"
        f"  {output / 'scores'}               scores, runs and values per query of each system\n"
        f"  {output / 'adapted'}              the encoder, its log and loss curve (loss.png)\n"
        f"  {output / ADAPTED.index}                ask it yourself, or {output / READY.index}:\n"
        f'  .venv/bin/llama2vec search {output / READY.index} "how do I sort a dictionary by value?"',
        markup=False, highlight=False,
    )  # fmt: skip


def answer_from_long_documents(output: Path, ready: str) -> None:
    """Index long documents with the ready model as ``llama2vec ask`` does, and answer with file and line."""
    manual, index = output / "manual", output / "manual-index"
    manual.mkdir(exist_ok=True)
    for name in CHAPTERS:
        chapter = manual / f"{name}.rst"
        if not chapter.is_file():
            chapter.write_text(topics[name], encoding="utf-8")
    model = ModelSpec.of_source(resolve_model(ready))
    report = Following(manual, index, model).sync()
    console.print(f"\n{len(CHAPTERS)} long chapters of Python's manual became {report.passages} passages.")
    console.print(f"\n{QUESTION_TO_CHAPTERS}  [hybrid]", style="bold", markup=False)
    for hit in Retriever.open(index).hits(QUESTION_TO_CHAPTERS, "hybrid", 2):
        where = location(hit.passage, QUESTION_TO_CHAPTERS)
        shown = snippet(hit.passage.text, QUESTION_TO_CHAPTERS, 150)
        found = f"{hit.rank:>3}. {manual / where}  {hit.passage.title}\n     {shown}"
        console.print(found, markup=False, highlight=False, soft_wrap=True)
    advice = '\nThe same for documents of yours:\n  .venv/bin/llama2vec ask MY_DOCUMENTS "my question"'
    console.print(advice, markup=False, highlight=False)


if __name__ == "__main__":
    main()
