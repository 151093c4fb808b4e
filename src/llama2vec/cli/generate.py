"""``llama2vec generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama2vec.cli.dry_run import DryRun, generation_recipe, show_stage
from llama2vec.cli.options import Device, Dtype, print_reading, set_option, with_options
from llama2vec.cli.settings_options import lists_settings
from llama2vec.config import ModelSettings, load_config
from llama2vec.data.documents.folder import ReadingReport
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.examples.reported import check_reported, report_path
from llama2vec.generate.settings import GenerateConfig
from llama2vec.model.packaged import SMOLLM2_NAME
from llama2vec.terminal import counted, display


@lists_settings(GenerateConfig)
def generate_command(
    corpus: Annotated[str, typer.Argument(help="Folder of documents, BEIR folder, JSONL, TSV, hf:… or ir:….")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file; the report goes to OUTPUT.report.json.")],
    model: Annotated[
        str | None,
        typer.Option(
            help=f"LLM that writes the questions; replaces generate.model.  [default: {SMOLLM2_NAME}]",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML recipe with a [generate] section.")] = None,
    sets: Annotated[list[str] | None, set_option("generate.questions=3")] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    dry_run: DryRun = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace generated examples that have other settings.")
    ] = False,
) -> None:
    """Generate training queries for unlabeled passages with an LLM."""
    config = load_config(GenerateConfig, recipe, with_options(sets, ("--model", "generate.model", model)))
    from llama2vec.generate.generation import GenerationInputs, check_generated, generate_to_file
    from llama2vec.model.source import ModelSpec, resolve_model
    from llama2vec.model.tokens import corpus_splitter

    settings = config.generate
    named = load_config(ModelSettings, None, [f"dtype={dtype}", f"device={device}"])
    llm = named.model_copy(update={"name": settings.model or SMOLLM2_NAME})

    def splitter() -> Splitter | None:
        # By the LLM's tokens, as the encoder that is trained of it splits: mining finds the passages under the same ids
        spec = ModelSpec.of_source(resolve_model(llm.name))
        return corpus_splitter(corpus, spec, config.passages, config.reading)

    if dry_run:
        given = GenerationInputs(corpus, llm, reading=config.reading)
        check_generated(given, splitter, output, settings, overwrite=overwrite)
        show_stage("pairs", generation_recipe(config, corpus, llm), output)
        return
    found = ReadingReport()
    check_reported(output, "generate")
    inputs = GenerationInputs(corpus, llm, splitter(), config.reading, report=found)
    report = generate_to_file(inputs, output, settings, overwrite=overwrite)
    if report is None:
        display(f"{output} is already done, with the same inputs and settings; nothing to do")
        return
    print_reading(found)
    display(report.summary())
    display(
        f"Wrote {counted(report.kept, 'example')} to {output} in {report.seconds:,.0f} s; report: {report_path(output)}"
    )
