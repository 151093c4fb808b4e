"""The systems that a run scores: which they are, how they read, and what the settings of windows ask of them."""

from __future__ import annotations

from functools import cache

from llama2vec.config import EncoderSettings
from llama2vec.errors import ConfigError
from llama2vec.model.source import ModelSpec, resolve_model
from llama2vec.model.tokens import passage_reading
from llama2vec.pipeline.settings import RunConfig
from llama2vec.score.settings import EvaluateSettings
from llama2vec.score.tasks import find_task
from llama2vec.score.windows import check_windows_used, windows_of


def systems(config: RunConfig) -> tuple[str, ...]:
    """Return the systems to score."""
    assert config.evaluate
    if config.evaluate.systems:
        return tuple(dict.fromkeys(config.evaluate.systems))
    has_bm25 = config.index is not None and config.index.bm25
    models = _models_made(config) or ["raw"]
    retrieval = any(find_task(name).kind == "retrieval" for name in config.evaluate.tasks)
    return ("bm25", *models, *(["hybrid"] if has_bm25 else [])) if retrieval else (*models,)


def scored_tasks(settings: EvaluateSettings, system: str) -> list[str]:
    """Return the tasks that a system is scored on: only models score sentence pairs."""
    searches_words = system in ("bm25", "hybrid")
    found = [name for name in settings.tasks if not searches_words or find_task(name).kind == "retrieval"]
    if not found:
        raise ConfigError(f"evaluate.systems: {system} does not score sentence pairs; add a retrieval task or drop it")
    return found


def hybrid_model(config: RunConfig) -> str:
    """Return the system that ``hybrid`` combines with BM25: the last model of the run."""
    return (_models_made(config) or ["raw"])[-1]


def _models_made(config: RunConfig) -> list[str]:
    return [name for name, section in (("adapted", config.adapt), ("finetuned", config.finetune)) if section]


def read_documents_as(config: RunConfig) -> ModelSpec:
    """Return the model whose tokens measure the passages of documents: the run's LLM, as its encoders will read."""
    source = resolve_model(config.model.name)
    if source.carries_contract:
        return ModelSpec.of_source(source)
    return ModelSpec.of_source(source, prompts=config.prompts, encoder=config.trained_encoder)


def raw_encoder(config: RunConfig) -> EncoderSettings:
    """Return the settings of the untrained LLM for comparison: mean pooling, as usual without training."""
    return config.encoder.model_copy(update={"pooling": "mean"})


def check_windows(config: RunConfig) -> None:
    """Raise a ConfigError for windows that a system could not be scored with, which would show after all training."""
    given = config.evaluate
    assert given

    @cache
    def limit(model: str) -> int:
        return passage_reading(_raw_model(config) if model == "raw" else read_documents_as(config))[1]

    for system in systems(config):
        tasks = [task for task in map(find_task, scored_tasks(given, system)) if task.kind == "retrieval"]
        model = hybrid_model(config) if system == "hybrid" else "" if system == "bm25" else system
        if model and not (given.window_tokens or given.stride):
            continue  # Then windows have the model's own length; its tokenizer need not be read for that
        try:
            check_windows_used(
                given, [windows_of(system, one, given, limit(model) if model else None) for one in tasks]
            )
        except ConfigError as error:
            raise ConfigError(f"evaluate: {error}") from None


def _raw_model(config: RunConfig) -> ModelSpec:
    source = resolve_model(config.model.name)
    reading = {} if source.carries_contract else {"prompts": config.prompts, "encoder": raw_encoder(config)}
    return ModelSpec.of_source(source, **reading)
