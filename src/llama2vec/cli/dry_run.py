"""``--dry-run`` of a single stage or of mining: what it reads, its time and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama2vec.cli.options import report
from llama2vec.cli.seeds import read_seeds, seed_folder, seeded
from llama2vec.config import ModelSettings
from llama2vec.data.examples.labeled import splits_of
from llama2vec.errors import ConfigError

if TYPE_CHECKING:
    from llama2vec.adapt.settings import AdaptConfig
    from llama2vec.data.settings import ReadingSettings
    from llama2vec.finetune.settings import FinetuneConfig
    from llama2vec.generate.settings import GenerateConfig
    from llama2vec.mine.inputs import MiningInputs
    from llama2vec.mine.settings import MineSettings
    from llama2vec.model.source import ModelSpec

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan with time and memory; write nothing.")]


def memory_text(count: float) -> str:
    """Return a number of bytes as an estimate.

    >>> memory_text(3 * 2**30), memory_text(5 * 2**20)
    ('~ 3.0 GiB', '~ 5 MiB')
    """
    return f"~ {count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"~ {max(1, count / 2**20):.0f} MiB"


def show_stage(
    kind: str, recipe: Mapping[str, Any], output: Path, seeds: int = 1, labeled: ReadingSettings | None = None
) -> None:
    """Print the estimated time and memory of one stage of a run, and what the estimate assumes.

    ``labeled`` names the fields of its labeled sources.
    """
    from llama2vec.data.corpus.passages import read_once
    from llama2vec.pipeline.estimates import estimate_run
    from llama2vec.pipeline.plan import plan_run
    from llama2vec.pipeline.settings import RunConfig
    from llama2vec.terminal import duration

    with read_once():
        plan = plan_run(RunConfig.model_validate(recipe), output)
        stage = next(one for one in plan.stages if one.kind == kind)
        estimate = estimate_run(plan, [stage], labeled=labeled, alone=True)
    found = estimate.stages[stage.name]
    each = f", ~ {duration(found.seconds * seeds)} for all {seeds} seeds" if seeds > 1 else ""
    took = f"~ {duration(found.seconds)}{each}, peak memory {memory_text(found.memory_bytes)}"
    report("\n".join([f"Estimate for {output}: {took}", *(f"- {line}" for line in estimate.assumptions)]))


def show_training(
    read: Callable[[list[str]], AdaptConfig | FinetuneConfig],
    changes: list[str],
    output: Path,
    seeds: str | None,
    *,
    overwrite: bool,
) -> None:
    """Print the estimate of the training that ``--seeds`` or its absence describes."""
    from llama2vec.finetune.settings import FinetuneConfig

    numbers, config = read_seeds(seeds, changes) if seeds else [], read(changes)
    made = {seed_folder(output, seed): read(seeded(changes, seed, output)) for seed in numbers} or {output: config}
    if isinstance(config, FinetuneConfig):
        recipe, labeled = finetuning_recipe(config), config.reading
    else:
        recipe, labeled = adaptation_recipe(config), None
    for folder, one in made.items():
        _check_training(one, folder, overwrite=overwrite)
    show_stage("adapt" if labeled is None else "finetune", recipe, output, len(made), labeled)


def _check_training(config: AdaptConfig | FinetuneConfig, output: Path, *, overwrite: bool) -> None:
    """Refuse an output that the training would refuse."""
    from llama2vec.adapt.stage import check_adaptation
    from llama2vec.finetune.settings import FinetuneConfig
    from llama2vec.finetune.stage import check_fine_tuning

    if isinstance(config, FinetuneConfig):
        check_fine_tuning(config, output, overwrite=overwrite)
    else:
        check_adaptation(config, output, overwrite=overwrite)


def show_mining(
    inputs: MiningInputs,
    output: Path,
    settings: MineSettings,
    model: ModelSpec | None,
    loading: ModelSettings,
    *,
    overwrite: bool,
) -> None:
    """Print what a mining would read, take and write."""
    from llama2vec.mine.mining import check_mined
    from llama2vec.pipeline.mining_estimate import estimate_mining
    from llama2vec.terminal import duration

    check_mined(inputs, output, settings, overwrite=overwrite)
    (seconds, memory), notes = estimate_mining(inputs, output, settings, model, loading)
    took = f"~ {duration(seconds)}" if model else "BM25 alone, whose time is not estimated"
    head = f"Estimate for {output}: {took}, peak memory {memory_text(memory)}"
    report("\n".join([head, *(f"- {line}" for line in notes)]))


def adaptation_recipe(config: AdaptConfig) -> dict[str, Any]:
    """Return the recipe of a run that adapts as this one does."""
    if not config.text.corpus:
        raise ConfigError("text.corpus is empty; name a corpus in the recipe or with --corpus")
    given = config.model_dump(exclude_unset=True)
    return {**_shared(given), "corpus": config.text.corpus, "adapt": given}


def finetuning_recipe(config: FinetuneConfig) -> dict[str, Any]:
    """Return the recipe of a run that fine-tunes on the same examples."""
    data, names = config.data, config.data.source_list
    if not names:
        raise ConfigError("data.sources is empty; name labeled examples in the recipe or with --data")
    given = config.model_dump(exclude_unset=True)
    own = {name: value for name, value in given.get("data", {}).items() if name not in ("sources", "split", "limit")}
    splits = zip(names, splits_of(names, data.split), strict=True)
    sources = [{"source": one, "split": split, "limit": data.limit} for one, split in splits]
    return {**_shared(given), "pairs": {"sources": sources}, "finetune": {**given, "data": own}}


def generation_recipe(config: GenerateConfig, corpus: str, llm: ModelSettings) -> dict[str, Any]:
    """Return the recipe of a run that writes the same questions."""
    loading = llm.model_dump(include={"name", "dtype", "device"})
    parts = config.model_dump(include={"reading", "passages"}, exclude_unset=True)
    return {"corpus": corpus, "model": loading, **parts, "pairs": {"generated": config.generate.model_dump()}}


def _shared(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("model", "prompts") if name in given}
