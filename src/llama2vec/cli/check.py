"""``llama2vec check``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.cli.options import set_option, with_options
from llama2vec.cli.settings_options import lists_settings
from llama2vec.config import load_config
from llama2vec.data.examples.labeled import splits_of
from llama2vec.errors import ConfigError, ExampleFormatError
from llama2vec.files import FileKind, check_new, write_output
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.terminal import counted, display

if TYPE_CHECKING:
    from llama2vec.data.examples.report import ExampleReport

_REPORT = FileKind("a report of `llama2vec check`", rb'\{\s*"reports": \[\s*\{\s*"source": ')


@lists_settings(FinetuneConfig)
def check_command(
    data: Annotated[
        list[str] | None,
        typer.Argument(help="JSONL, BEIR folder, MS MARCO triples, hf:NAME; default: the recipe's data.sources."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the report to this JSON file.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the examples; replaces data.split (train).")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Fine-tuning recipe whose length limits apply.")] = None,
    model: Annotated[str | None, typer.Option(help="Model whose tokenizer counts tokens; replaces model.name.")] = None,
    negatives: Annotated[
        int | None,
        typer.Option(min=0, help="Report rows with fewer negatives than this; default: the recipe's number."),
    ] = None,
    sets: Annotated[list[str] | None, set_option("encoder.passage_max_tokens=256")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --output.")] = False,
) -> None:
    """Read training data to the end and report every problem; exit code 2 if there is one."""
    config = load_config(
        FinetuneConfig,
        recipe,
        with_options(sets, ("--model", "model.name", model), ("--split", "data.split", split)),
    )
    sources = data or config.data.source_list
    if not sources:
        raise ConfigError("nothing to check; name DATA, or a recipe with data.sources")
    if negatives is None:
        negatives = config.contrastive.negatives if config.contrastive.missing_negatives == "error" else 0
    names_model = recipe is not None or "name" in config.model.model_fields_set
    name = config.model.name if names_model else None
    check_new(output, overwrite=overwrite, inputs=[*sources, name, recipe], kind=_REPORT)
    count_tokens, limits = _tokens(config) if name else (None, (0, 0))
    from llama2vec.data.examples.report import inspect_examples

    reports: list[ExampleReport] = []
    for source, read in zip(sources, splits_of(sources, config.data.split), strict=True):
        report = inspect_examples(
            source, split=read, count_tokens=count_tokens, query_max_tokens=limits[0],
            passage_max_tokens=limits[1], negatives=negatives, reading=config.reading,
        )  # fmt: skip
        display(report, "")
        reports.append(report)
    _note_unscored(reports)
    _finish(reports, output, overwrite)


def _tokens(config: FinetuneConfig) -> tuple[Callable[[list[str]], list[int]], tuple[int, int]]:
    """Return a function that counts tokens, and the lengths at which queries and passages are truncated."""
    from llama2vec.finetune.lengths import training_limits

    tokenizer, limits = training_limits(config)

    def count(texts: list[str]) -> list[int]:
        return list(map(len, tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]))

    return count, (limits["query"].tokens, limits["passage"].tokens)


def _note_unscored(reports: list[ExampleReport]) -> None:
    """Note files without scores where other files have them; rows of one file are noted in its report."""
    without = [report for report in reports if report.examples and not report.scored]
    if without and len(without) < len(reports):
        rows = counted(sum(report.examples for report in without), "row")
        names = ", ".join(report.source for report in without)
        display(f"Worth a look: {names}: {rows} without scores, which other sources have\n")


def _finish(reports: list[ExampleReport], output: Path | None, overwrite: bool) -> None:
    if output:
        facts = {"reports": [dataclasses.asdict(report) for report in reports]}
        write_output(output, json.dumps(facts, indent=2, ensure_ascii=False) + "\n", _REPORT, overwrite=overwrite)
        display(f"Wrote {output}")
    faulty = [report.summary() for report in reports if report.problem_count]
    if faulty:
        raise ExampleFormatError(f"{'; '.join(faulty)}; correct or delete these rows")
    rows = sum(report.rows for report in reports)
    display(f"Checked {', '.join(report.source for report in reports)}: {counted(rows, 'row')}, no problems")
