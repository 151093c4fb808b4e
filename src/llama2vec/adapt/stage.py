"""adapt_model, text in and encoder out: mistakes in a call show before torch is imported."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import PromptSettings
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.data.documents.folder import ReadingReport
from llama2vec.data.examples.unlabeled import limited_passages
from llama2vec.data.text.words import chosen_stop_words
from llama2vec.errors import ConfigError
from llama2vec.model.local import fetched
from llama2vec.model.quantized import check_quantization
from llama2vec.model.source import resolve_model
from llama2vec.records import Passage
from llama2vec.training.output import Stage, check_output, claim_output, model_fingerprint
from llama2vec.training.tracking import check_trackers

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder

logger = logging.getLogger(__name__)

STAGE = Stage("adapt", "an adaptation", "corpus")


def adapt_model(
    config: AdaptConfig,
    output: str | Path,
    *,
    passages: Iterable[Passage] | None = None,
    overwrite: bool = False,
    report: ReadingReport | None = None,
) -> Encoder:
    """Adapt a causal LM on plain text (stage 1 of Llama2Vec, arXiv 2312.15503) and save the encoder.

    After an interruption, the same call resumes from the last checkpoint and ends with the same weights.

    Args:
        config: The recipe.
        output: Folder for the encoder, log, loss curve, checkpoints and manifest.
        passages: Text in reading order; None reads ``config.text.corpus``.
        overwrite: Replace an adaptation with other settings.
        report: Takes what of the documents was read and what not, as in :func:`read_passages`.

    Raises:
        OutputExistsError: The folder holds another adaptation, or something else.
        ConfigError: No corpus.
        ModelNotFoundError: No such model.
        ModelError: Its weights are packed.
        EmptyCorpusError: No text.
    """
    output = Path(output)
    if config.model.attention not in ("sdpa", "eager"):
        raise ConfigError(
            f"model.attention: {config.model.attention} cannot mask a joint sequence; use sdpa or eager to adapt "
            "(the encoder may use it afterwards)"
        )
    _check_prompts(config.prompts)
    _tell_of_one_prompt(config)
    check_trackers(config.tracking)
    # A list that cannot be read is named before a corpus is, which may take hours.
    chosen_stop_words(config.text.stop_words, config.text.language)
    if passages is None and not config.text.corpus:
        raise ConfigError("text.corpus is empty; name a corpus in the recipe or with --corpus")
    check_quantization(fetched(resolve_model(config.model.name)), for_training=True)
    inputs = SteadyInputs()
    corpus = inputs.corpus(config.text.corpus, config.reading) if passages is None else "given"
    plan = _plan(config, corpus)
    read = passages
    if read is None:
        read = inputs.read(limited_passages(config.text.corpus, config.text.limit, config.reading, report))
    with claim_output(
        output, STAGE, plan, overwrite=overwrite, device=config.model.device, model=config.model.name,
        inputs=[config.text.corpus], sharding=config.optimizer.sharding,
    ) as work:  # fmt: skip
        if work.is_finished:
            logger.info("%s: this adaptation is finished; nothing to do", output)
            from llama2vec.model.encoder import Encoder

            return Encoder.load(output, settings=config.model.all_layers)
        from llama2vec.adapt.train import train_adaptation

        return train_adaptation(config, work, read)


def check_adaptation(config: AdaptConfig, output: Path, *, overwrite: bool) -> None:
    """Raise an OutputExistsError for an output that :func:`adapt_model` would refuse; nothing is written."""

    def plan() -> dict[str, Any]:
        return _plan(config, SteadyInputs().corpus(config.text.corpus, config.reading))

    check_output(output, STAGE, plan, overwrite=overwrite, inputs=[config.model.name, config.text.corpus])


def _plan(config: AdaptConfig, corpus: str) -> dict[str, Any]:
    """Return what decides the result: settings and input."""
    return STAGE.plan(config.deciding(), corpus, model_fingerprint(config.model.name))


def _check_prompts(prompts: PromptSettings) -> None:
    """Raise a ConfigError for prompts that only encode."""
    for name in ("next_prefix", "repeat"):
        if getattr(prompts, name) is not None:
            raise ConfigError(f"prompts.{name} cannot be adapted: both prompts follow one copy of the text; drop it")
    if prompts.slot == "last" and not (prompts.self_prompt and prompts.next_prompt):
        raise ConfigError("prompts.slot is last and a prompt is empty: it has no token to be trained; give it words")


def _tell_of_one_prompt(config: AdaptConfig) -> None:
    """Say which prompt the encoder reads with where only one is trained, and warn where it is the other one."""
    trained = config.objective.trained_prompts
    if len(trained) > 1 or config.encoder.pooling != "slots":
        return
    off = "self" if trained == ("next",) else "next"
    untrained = [
        f"encoder.{name}" for name in ("query_prompt", "passage_prompt") if getattr(config.encoder, name) == off
    ]
    if untrained:
        logger.warning(
            "objective.%s_weight is 0, so the %s prompt is not trained, and the encoder reads with it: set %s",
            off, off.upper(), " and ".join(f"{name}={trained[0]}" for name in untrained),
        )  # fmt: skip
    else:
        logger.info("objective.%s_weight is 0: the encoder reads with the %s prompt", off, trained[0].upper())
