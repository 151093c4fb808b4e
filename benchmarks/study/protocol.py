"""What a budget fixes for all of its cells: sets, samples, lengths, training."""

from __future__ import annotations

import tomllib
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from benchmarks.paths import REPOSITORY
from llama2vec.config import PromptName, Settings, load_config
from llama2vec.errors import ConfigError

BUDGETS = Path(__file__).with_name("budgets")
ALL_PAIRS = -1
_NOT_FROZEN = {"plan", "estimates"}

RecipeName = Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
Adaptation = Literal["none", "ebae", "ebar", "both"]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class Sets(Settings):
    """The searched sets, and how much of each.

    Attributes:
        retrieval: BEIR folders below the data folder.
        average: The sets that averages and comparisons use.
        sts: Files of sentence pairs below the data folder, for models without a second stage.
        max_tokens: Length limit of queries and passages.
        max_queries: Queries per set; 0 = all.
        judged: Relevant passages kept for each query; 0 = all.
        extra_passages: Other passages of the corpus; 0 = all.
        depth: Passages per ranking.
    """

    retrieval: Annotated[list[str], Field(min_length=1)]
    average: Annotated[list[str], Field(min_length=1)]
    sts: list[str] = Field(default_factory=list)
    max_tokens: Positive = 128
    max_queries: Count = 0
    judged: Count = 0
    extra_passages: Count = 0
    depth: Positive = 100

    @model_validator(mode="after")
    def _known(self) -> Sets:
        unknown = [name for name in self.average if name not in self.retrieval]
        if unknown:
            raise ValueError(f"average names {unknown[0]}, which is not in retrieval")
        return self


class AdaptationStage(Settings):
    """Stage 1 of every adapted cell.

    Attributes:
        corpus: Unlabeled text below the data folder.
        recipe: TOML recipe of ``llama2vec adapt``; relative to the repository.
        overrides: ``section.key=value`` settings that override the recipe.
        recipes: Name of a variant → further overrides; must include ``paper``, the main one.
    """

    corpus: str
    recipe: str
    overrides: list[str] = Field(default_factory=list)
    recipes: dict[RecipeName, list[str]]

    @model_validator(mode="after")
    def _has_main(self) -> AdaptationStage:
        if "paper" not in self.recipes:
            raise ValueError("recipes lacks paper, which the main table needs")
        return self


class FinetuningStage(Settings):
    """Stage 2 of every fine-tuned cell, the same for every start.

    Attributes:
        overrides: ``section.key=value`` on top of the defaults of ``llama2vec finetune``.
        steps: Optimizer steps.
        batch_size: Queries per step.
        most_epochs: Train fewer steps if the pairs would be read more often than this; 0 = no limit.
        sources: Labeled examples below the data folder.
        pairs_per_source: Drawn from each; 0 = all.
        negatives: Mined with BM25 per labeled pair; training draws the same ones for all cells of a seed.
        last_rank: Last rank of BM25's window.
        corpus_sets: Searched sets whose corpora give pairs without labels.
        corpus_pairs: Drawn from each of them.
    """

    overrides: list[str] = Field(default_factory=list)
    steps: Positive
    batch_size: Positive
    most_epochs: Count = 0
    sources: Annotated[list[str], Field(min_length=1)]
    pairs_per_source: Count = 0
    negatives: Positive = 1
    last_rank: Positive = 50
    corpus_sets: Annotated[list[str], Field(min_length=1)]
    corpus_pairs: Positive

    def steps_for(self, pairs: int) -> int:
        """Return the optimizer steps for a number of pairs."""
        return min(self.steps, ceil(self.most_epochs * pairs / self.batch_size)) if self.most_epochs else self.steps


class Plan(Settings):
    """The cells of a budget; adding cells leaves existing scores valid.

    Attributes:
        seeds: Seeds of every draw.
        steps: Adaptation steps of the main table.
        steps_curve: Further numbers of adaptation steps.
        pairs_curve: Further numbers of labeled pairs, below all.
    """

    seeds: Annotated[list[int], Field(min_length=1)]
    steps: Positive
    steps_curve: list[Positive] = Field(default_factory=list)
    pairs_curve: list[Positive] = Field(default_factory=list)


class Estimates(Settings):
    """Seconds that a step of either stage and scoring a set take, before anything was measured on a machine."""

    adaptation_step: Annotated[float, Field(gt=0)]
    finetuning_step: Annotated[float, Field(gt=0)]
    set: Annotated[float, Field(gt=0)]


class Protocol(Settings):
    """A budget.

    Attributes:
        name: Name in the results file.
        model: The LLM.
        prompt_of: The prompt for queries and passages per adaptation, one that it trained.
        sets: The searched sets.
        adaptation: Stage 1.
        finetuning: Stage 2.
        plan: The cells.
        estimates: First guesses of durations.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    model: str
    prompt_of: dict[Adaptation, PromptName]
    sets: Sets
    adaptation: AdaptationStage
    finetuning: FinetuningStage
    plan: Plan
    estimates: Estimates

    def frozen(self) -> dict[str, Any]:
        """Return the settings that decide a score; runs with different ones belong to different budgets."""
        recipe = tomllib.loads((REPOSITORY / self.adaptation.recipe).read_text(encoding="utf-8"))
        return {**self.model_dump(exclude=_NOT_FROZEN), "adaptation_recipe": recipe}


def load_protocol(budget: str) -> Protocol:
    """Return a budget by its name, or from a TOML file.

    Raises:
        ConfigError: The budget does not exist, or its file is invalid.
    """
    known = sorted(path.stem for path in BUDGETS.glob("*.toml"))
    path = BUDGETS / f"{budget}.toml" if budget in known else Path(budget)
    if path.suffix != ".toml":
        raise ConfigError(f"--budget {budget}: no such budget; choose from {', '.join(known)}, or give a TOML file")
    return load_config(Protocol, path)
