"""``llama2vec mine``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from llama2vec.cli.dry_run import DryRun, show_mining
from llama2vec.cli.options import (
    EncoderLoading,
    check_prompts,
    load_encoder,
    model_settings,
    model_spec,
    print_reading,
    set_option,
    with_options,
)
from llama2vec.cli.settings_options import lists_settings, options_from
from llama2vec.config import load_config
from llama2vec.data.corpus.sources import beir_file
from llama2vec.data.documents.folder import ReadingReport
from llama2vec.data.examples.reported import report_path
from llama2vec.mine.settings import MineConfig
from llama2vec.terminal import counted, display

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder


class _Models(EncoderLoading):
    """The teacher, and how models are loaded."""

    teacher: str | None = Field(
        None,
        description="Cross-encoder, sentence-transformers model or saved encoder that scores each query's positives "
        "and negatives; replaces mine.teacher.",
    )


@options_from(_Models, "models", panel="Models")
@lists_settings(MineConfig)
def mine_command(
    models: _Models,
    examples: Annotated[str, typer.Argument(help="Training examples: JSONL, BEIR folder, TSV, hf:….")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file; the report goes to OUTPUT.report.json.")],
    corpus: Annotated[
        str | None,
        typer.Option(help="Passages or documents; default: the store's, the BEIR folder's, or the examples' own."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Encoder to search with; default: the store's.")] = None,
    store: Annotated[
        Path | None, typer.Option(help="Store or index of the corpus; without it, the model encodes the corpus.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the examples.")] = "train",
    recipe: Annotated[Path | None, typer.Option(help="TOML recipe with a [mine] section.")] = None,
    sets: Annotated[list[str] | None, set_option("mine.bm25=false")] = None,
    dry_run: DryRun = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace mined examples that have other settings.")
    ] = False,
) -> None:
    """Mine hard negatives with BM25, a model, or both; report what was removed."""
    config = load_config(MineConfig, recipe, with_options(sets, ("--teacher", "mine.teacher", models.teacher)))
    from llama2vec.integrations.pair_scorer import PairScorer
    from llama2vec.mine.mining import MiningInputs, mine_to_file
    from llama2vec.model.tokens import corpus_splitter
    from llama2vec.retrieve.index.folder import open_index

    check_prompts(models.prompts, has_model=bool(model or store))
    index = open_index(store) if store else None
    spec = model_spec(model, models.prompts, store=index.store if index else None) if model or index else None
    source = corpus or (examples if beir_file(examples, "corpus") and not index else "")
    found = ReadingReport()

    def load() -> Encoder:
        store = index.store if index else None
        return load_encoder(model, models.dtype, models.device, models.prompts, store=store)

    inputs = MiningInputs(
        examples, split, corpus or "", model or (spec.path or spec.name if spec else ""),
        load if spec else None, index,
        lambda: corpus_splitter(source, spec, config.passages, config.reading) if source else None, config.reading,
        report=found,
        teacher=PairScorer(config.mine.teacher, models.device, models.dtype) if config.mine.teacher else None,
    )  # fmt: skip
    if dry_run:
        loading = model_settings(models.dtype, models.device, None)[0]
        show_mining(inputs, output, config.mine, spec, loading, overwrite=overwrite)
        return
    report = mine_to_file(inputs, output, config.mine, overwrite=overwrite)
    if report is None:
        display(f"{output} is already done, with the same inputs and settings; nothing to do")
        return
    display(
        report.summary(),
        f"Mined {counted(report.mined, 'negative')} for {report.written:,} of "
        f"{counted(report.queries, 'query', 'queries')} to {output} "
        f"in {report.facts['seconds']:,.0f} s; report: {report_path(output)}",
    )
    print_reading(found)
