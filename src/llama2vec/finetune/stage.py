"""finetune_model, labeled examples in and encoder out: mistakes in a call show before torch is imported."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama2vec.config import EncoderSettings, PromptSettings
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.data.examples.labeled import examples_fingerprint, named_fingerprint, splits_of
from llama2vec.errors import ConfigError
from llama2vec.finetune.contract import resolve_contract
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.manifest import digest
from llama2vec.model.local import fetched
from llama2vec.model.quantized import check_quantization
from llama2vec.model.source import resolve_model
from llama2vec.records import TrainingExample
from llama2vec.training.output import Stage, check_output, claim_output, model_fingerprint
from llama2vec.training.tracking import check_trackers

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder

logger = logging.getLogger(__name__)

# Up to 4, queries that differ in case were different ones, which decides what is held out and the order of batches.
# Up to 5, the places of the rows decided what is held out.
STAGE = Stage("finetune", "a fine-tuning", "examples", format=6)


def finetune_model(
    config: FinetuneConfig,
    output: str | Path,
    *,
    examples: Sequence[TrainingExample] | None = None,
    overwrite: bool = False,
    drawn_from: Sequence[str] = (),
) -> Encoder:
    """Fine-tune a causal LM or an adapted encoder on labeled queries (stage 2 of Llama2Vec) and save the encoder.

    After an interruption, the same call resumes from the last checkpoint and ends with the same weights.

    Args:
        config: The recipe.
        output: Folder for the encoder, log, curves, checkpoints and manifest.
        examples: Labeled queries; None reads ``config.data.sources``.
        overwrite: Replace a fine-tuning with other settings.
        drawn_from: Files of examples from which the held-out queries are drawn, in the order of ``data.sources``, which
            hold a part of their queries. Fine-tunings on different parts then share neither a held-out query nor a
            passage that answers it. Empty = they are drawn from the examples themselves.

    Raises:
        OutputExistsError: The folder holds another fine-tuning, or something else.
        ConfigError: No examples named, or nothing to contrast.
        ContractError: The recipe contradicts the model's contract.
        ModelError: The model's weights are packed.
        DataError: Unusable examples.
        TrainingError: Training cannot start, or must stop.
    """
    output = Path(output)
    check_trackers(config.tracking)
    contract = resolve_contract(config)
    check_quantization(fetched(resolve_model(config.model.name)), for_training=True)
    steady = SteadyInputs()
    plan = _plan(config, contract, examples, steady, drawn_from)
    with claim_output(
        output, STAGE, plan, overwrite=overwrite, device=config.model.device, model=config.model.name,
        inputs=[*config.data.source_list, *drawn_from, config.validation.source],
        sharding=config.optimizer.sharding,
    ) as work:  # fmt: skip
        if work.is_finished:
            logger.info("%s: this fine-tuning is finished; nothing to do", output)
            from llama2vec.model.encoder import Encoder

            return Encoder.load(output, settings=config.model.all_layers)
        from llama2vec.finetune.train import train_fine_tuning

        return train_fine_tuning(config, work, contract, examples, steady, drawn_from)


def check_fine_tuning(config: FinetuneConfig, output: Path, *, overwrite: bool) -> None:
    """Raise an OutputExistsError for an output that :func:`finetune_model` would refuse; nothing is written."""
    inputs = [config.model.name, *config.data.source_list, config.validation.source]

    def plan() -> dict[str, Any]:
        return _plan(config, resolve_contract(config), None, SteadyInputs())

    check_output(output, STAGE, plan, overwrite=overwrite, inputs=inputs)


def _plan(
    config: FinetuneConfig,
    contract: tuple[PromptSettings, EncoderSettings],
    examples: Sequence[TrainingExample] | None,
    steady: SteadyInputs,
    drawn_from: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what decides the result: settings and input."""
    if examples is not None:
        text = "".join(map(repr, examples))
        found = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()]
    elif not config.data.source_list:
        raise ConfigError("data.sources is empty; name labeled examples in the recipe or with --data")
    else:
        # The settings of a plan name the files anyway.
        splits = dict(zip(sources := config.data.source_list, splits_of(sources, config.data.split), strict=True))
        found = [steady.take(one, partial(named_fingerprint, one, split=splits[one])) for one in sources]
    # The settings do not name these files, so their content alone counts.
    found += [steady.take(one, partial(examples_fingerprint, one)) for one in drawn_from]
    validation = config.validation
    if validation.source:
        taken = partial(named_fingerprint, validation.source, split=validation.source_split)
        found.append(steady.take(validation.source, taken))
    prompts, encoder = contract
    settings = config.model_copy(update={"prompts": prompts}).deciding()
    model = model_fingerprint(config.model.name)
    return STAGE.plan({**settings, "encoder": encoder.model_dump()}, digest(found), model)
