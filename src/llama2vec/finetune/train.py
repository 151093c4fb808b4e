"""The training of stage 2: its objective, what it reads, and the encoder that comes out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama2vec.config import EncoderSettings, ModelSettings, PromptSettings
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.data.examples.counting import limited_examples
from llama2vec.data.examples.labeled import read_examples, splits_of
from llama2vec.data.examples.spool import SPOOL_FILE, Sizes
from llama2vec.errors import ConfigError, EmptyCorpusError
from llama2vec.finetune.batches import (
    ContrastiveBatch,
    ContrastiveOrder,
    DrawnExample,
    DrawnExamples,
    checked_examples,
    contrastive_batch,
)
from llama2vec.finetune.contrastive_loss import Labels, contrastive_loss, cosines, matryoshka_widths
from llama2vec.finetune.ebae import Ebae
from llama2vec.finetune.false_negatives import StartModel, teacher_scores_of_all, without_false_negatives
from llama2vec.finetune.gradient_cache import GradientCache, idle_batches
from llama2vec.finetune.lengths import counting_cuts
from llama2vec.finetune.settings import ContrastiveSettings, ExamplesSettings, FinetuneConfig, FinetuneOptimizerSettings
from llama2vec.finetune.spooled import spooled_examples, spooled_queries
from llama2vec.finetune.validation import (
    BEST,
    ValidationTask,
    examples_task,
    held_out_queries,
    hold_out,
    read_validation,
)
from llama2vec.model.backbone import Backbone, check_keepable, decoder, keep_lowest_layers, layer_list, load_backbone
from llama2vec.model.batching import PromptedBatch, padded_batches
from llama2vec.model.contract import load_contract
from llama2vec.model.encoder import Encoder
from llama2vec.model.local import fetched, layer_count
from llama2vec.model.pooling import last_hidden_states, pool
from llama2vec.model.prompt import prompted_texts, slot_names
from llama2vec.model.source import resolve_model
from llama2vec.processes import average_gradients, gather_rows, process_count, process_rank, sum_everywhere
from llama2vec.records import Side, TrainingExample
from llama2vec.terminal import counted
from llama2vec.training.loop import check_enough, train
from llama2vec.training.memory import ModelShape, shape_of, usable_memory
from llama2vec.training.output import StageWork
from llama2vec.training.saving import check_trainable, make_trainable, save_trained, training_precision
from llama2vec.training.settings import OptimizerSettings
from llama2vec.training.sharding import ShardedModel
from llama2vec.training.state import step_size_kept
from llama2vec.training.steps import COUNTS
from llama2vec.training.tracking import Tracking

logger = logging.getLogger(__name__)

_MICRO_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
_GRAPH_TOKENS = {"cpu": 2048, "cuda": 16384}  # On a CPU, at least
_SHARE_OF_MEMORY = 1 / 4  # Main memory that activations may take by default


def held_cells(wanted: int, device: str, shape: ModelShape | None, itemsize: int, processes: int = 1) -> int:
    """Return the most cells whose activations are held: the requested number, else what suits the device.

    On a CPU that is a quarter of the memory, shared by the processes. Gradients do not depend on it.
    """
    least = _GRAPH_TOKENS.get(device, _GRAPH_TOKENS["cpu"])
    if wanted or device != "cpu" or shape is None:
        return wanted or least
    return max(least, int(_SHARE_OF_MEMORY * usable_memory() / processes / (shape.kept * itemsize)))


def micro_batch_cells(settings: ContrastiveSettings, device: str) -> int:
    """Return the most cells of one pass: the requested number, else what suits the device."""
    return settings.micro_batch_tokens or _MICRO_BATCH_TOKENS.get(device, _MICRO_BATCH_TOKENS["cpu"])


class ContrastiveObjective:
    """The contrastive loss over a batch of any size, on any number of processes, with exact gradients.

    The encoder gives prompts, lengths and pooling; its model is the one to train. ``ebae`` adds a pretext loss.
    """

    def __init__(
        self,
        encoder: Encoder,
        settings: ContrastiveSettings,
        data: ExamplesSettings,
        *,
        ebae: Ebae | None = None,
        mixed_precision: bool = False,
    ) -> None:
        self.encoder, self.settings, self.data, self.mixed_precision = encoder, settings, data, mixed_precision
        self.ebae = ebae
        self.device: torch.device = encoder.backbone.model.device
        self.micro_batch_tokens = micro_batch_cells(settings, self.device.type)
        model = encoder.backbone.model
        shape = shape_of(model) if layer_list(model) else None
        held = held_cells(settings.graph_tokens, self.device.type, shape, model.dtype.itemsize, process_count())
        self.graph_tokens = max(held, self.micro_batch_tokens)
        self.start = StartModel(encoder.backbone.model) if settings.false_negatives == "start" else None

    def order(self, examples: Sequence[Any], settings: OptimizerSettings) -> ContrastiveOrder:
        """Return a sampler of random batches over all processes, with duplicates in different batches."""
        assert isinstance(examples, DrawnExamples)
        joined = settings.batch_size * process_count()
        return ContrastiveOrder(examples, joined, settings.seed, homogeneous=self.data.homogeneous_batches)

    def collate(self, examples: Sequence[DrawnExample]) -> Mapping[str, Any]:
        """Tokenize and lay out one batch."""
        queries = [example.query for example in examples]
        passages = [text for example in examples for text in example.passages]
        ids = self._prompted(queries, "query"), self._prompted(passages, "passage")
        if self.ebae is None:
            return {"batch": contrastive_batch(examples, *ids)}
        bags = [*self.ebae.bags(queries, "query"), *self.ebae.bags(passages, "passage")]
        return {"batch": contrastive_batch(examples, *ids, bags), COUNTS: {"loss_self": self.ebae.count(bags)}}

    def _prompted(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        prompt, limit = self.encoder.reading(side)[0], _read_tokens(self.encoder, self.data)[side]
        return prompted_texts(self.encoder.backbone.tokenizer, texts, self.encoder.contract.ids, prompt, limit)

    def loss(self, model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Return the mean loss over the processes, its parts if several, and how many pairs a guide leaves out.

        ``backward`` rereads the texts that did not fit into memory and gives the weights the gradients of that mean.
        """
        # The wrapper of several processes expects one forward pass per step; gradients are averaged below instead.
        plain = getattr(model, "module", model)
        is_sharded = isinstance(model, ShardedModel)
        contrastive: ContrastiveBatch = batch["batch"]
        cache = GradientCache(partial(self._embed, plain), self.device, self.graph_tokens, in_step=is_sharded)
        batches = list(
            padded_batches(
                contrastive.sequences, self.micro_batch_tokens, self.encoder.pad_id,
                boundary=self.encoder.backbone.rotary_boundary,
                equal_lengths=self.encoder.backbone.padding_changes_vectors,
            )
        )  # fmt: skip
        if is_sharded:
            batches += idle_batches(batches, self.device)
        guide = None
        if self.start is not None:
            guide = self.start.read(
                plain, lambda model: ((part.rows, self._embed(model, part)[: len(part.rows)]) for part in batches)
            )
        vectors = cache.represent(batches)
        with torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            guide = vectors.detach() if guide is None else guide
            if self.ebae is None:
                loss, parts = self._loss_at_vectors(vectors, contrastive, guide)
            else:
                width, texts = self.encoder.dimension, torch.cat([contrastive.query_rows, contrastive.passage_rows])
                loss, parts = self._loss_at_vectors(vectors[:, :width], contrastive, guide[:, :width])
                pretext = self.ebae.loss(vectors[:, width:], texts, contrastive.bags, batch[COUNTS]["loss_self"])
                parts, loss = {**parts, "loss_self": pretext}, loss + self.ebae.weight * pretext
        assert vectors.grad is not None
        gradients = vectors.grad

        def push_back(upstream: Tensor) -> None:
            cache.backpropagate(gradients * upstream)
            if not is_sharded:  # FSDP averages them as it shares them out
                average_gradients(plain.parameters())

        loss.requires_grad_().register_hook(push_back)  # type: ignore[no-untyped-call]
        is_whole = sum(name.startswith("loss_") for name in parts) == 1
        told = {name: part.item() for name, part in parts.items() if not (is_whole and name.startswith("loss_"))}
        return loss, told

    def _loss_at_vectors(
        self, vectors: Tensor, batch: ContrastiveBatch, guide: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over the processes; leave the gradient of their sum in ``vectors.grad``."""
        queries = vectors[batch.query_rows.to(vectors.device)]
        passages = vectors[batch.passage_rows.to(vectors.device)]
        everywhere = gather_rows(passages.detach())
        first = sum(len(part) for part in everywhere[: process_rank()])
        joined = torch.cat(everywhere).requires_grad_()
        keys = torch.cat(gather_rows(batch.passage_keys.to(vectors.device)))
        labels, left_out = batch.labels(keys, first, vectors.device), None
        if self.settings.false_negatives != "none":
            scores = self._guide_scores(guide, batch, labels)
            labels, left_out = without_false_negatives(labels, scores, self.settings)
        loss, parts = contrastive_loss(queries, joined, labels, self.settings)
        loss.backward()  # type: ignore[no-untyped-call]
        # Passages of this process also get gradients from the queries of all others.
        pulls = sum_everywhere(joined.grad)  # type: ignore[arg-type]
        passages.backward(pulls[first : first + len(passages)])  # type: ignore[no-untyped-call]
        means = {name: sum_everywhere(part) / process_count() for name, part in parts.items()}
        if left_out is not None:
            means["false_negatives"] = sum_everywhere(left_out)
        return sum_everywhere(loss.detach().clone()) / process_count(), means

    def _guide_scores(self, vectors: Tensor, batch: ContrastiveBatch, labels: Labels) -> Tensor:
        """Return the guide's scores [Q, N] of this process's queries and the passages of all."""
        if self.settings.false_negatives == "teacher":
            return teacher_scores_of_all(labels, labels.answers.shape[1])
        passages = torch.cat(gather_rows(vectors[batch.passage_rows.to(vectors.device)]))
        return cosines(vectors[batch.query_rows.to(vectors.device)], passages)

    def _embed(self, model: Any, batch: PromptedBatch) -> Tensor:
        """Return the vectors [B, D]; with EBAE, [B, D + S·D], the slots' states after them."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed_precision):
            layers = self.encoder.contract.encoder.layers
            hidden = last_hidden_states(decoder(model), batch.input_ids.to(self.device), layers)
        contract, lengths = self.encoder.contract, batch.lengths.to(self.device)
        vectors = pool(hidden, lengths, contract.ids, contract.encoder.pooling, None)
        return vectors if self.ebae is None else torch.cat([vectors, self.ebae.states(hidden[-1], lengths)], dim=1)

    def validate(self, model: Any, held_out: Sequence[ValidationTask], batch_size: int) -> dict[str, float]:
        """Search the held-out queries with the current weights."""
        plain = getattr(model, "module", model)
        backbone = replace(self.encoder.backbone, model=plain)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed_precision):
            return held_out[0].score(Encoder(backbone, self.encoder.contract))


def train_fine_tuning(
    config: FinetuneConfig,
    work: StageWork,
    contract: tuple[PromptSettings, EncoderSettings],
    examples: Sequence[TrainingExample] | None,
    steady: SteadyInputs,
    drawn_from: Sequence[str] = (),
) -> Encoder:
    """Train and save; nothing is written before the model and the examples have been read.

    Args:
        config: The recipe.
        work: Where the output goes.
        contract: As :func:`resolve_contract` gives it.
        examples: Labeled queries; None reads ``config.data.sources``.
        steady: Finds out whether these have changed since the plan was made.
        drawn_from: As in :func:`llama2vec.finetune.stage.finetune_model`.
    """
    check_trainable(config.model)
    drawn, task = _read(config, work, examples, drawn_from)
    steady.check()
    config = config.model_copy(update={"optimizer": step_size_kept(config.optimizer, work.path, "batch_size")})
    optimizer = _with_steps(config.optimizer, len(drawn))
    check_enough(len(drawn), optimizer, some_held_out=config.validation.held_out_share > 0)
    _check_contrast(config, drawn)
    started = time.monotonic()
    settings, mixed = training_precision(config.model)
    backbone = _load_backbone(settings)
    if contract[0].repeat is not None:
        raise ConfigError("prompts.repeat is for models as they are; choose other prompts to fine-tune")
    encoder = Encoder.from_backbone(backbone, *contract)
    _check_fits(config, encoder)
    ebae = None
    if config.pretext.weight:
        ebae = Ebae(encoder, config.pretext, _read_tokens(encoder, config.data))
        ebae.prepare(drawn)
    # The embedding rows of slot tokens are trained, new or not.
    slots = [name for names in slot_names(contract[0]).values() for name in names]
    trainable = make_trainable(backbone, config.model, slots, optimizer.seed)
    objective = ContrastiveObjective(encoder, config.contrastive, config.data, ebae=ebae, mixed_precision=mixed)
    training = counted(len(drawn), "training query", "training queries")
    logger.info("%s, %d held out", training, len(task.queries) if task else 0)
    result = train(
        trainable, drawn, [task] if task else [], objective, optimizer, work.begin(),
        bf16=mixed, gradient_checkpointing=config.model.gradient_checkpointing, compile=config.model.compile is True,
        best=BEST if config.validation.keep_best else "",
        tracking=Tracking(config.tracking, work.output.name, work.plan),
    )  # fmt: skip
    facts = result.facts(started) | {"training_queries": len(drawn), "best_step": result.best_step}
    return save_trained(encoder, trainable, work, facts=facts)


def _read_tokens(encoder: Encoder, data: ExamplesSettings) -> dict[Side, int]:
    """Return the most tokens that training reads of a text of each side."""
    sides: tuple[Side, ...] = ("query", "passage")
    most = {side: encoder.reading(side)[1] for side in sides}
    return {side: min(limit, getattr(data, f"{side}_max_tokens") or limit) for side, limit in most.items()}


def _load_backbone(settings: ModelSettings) -> Backbone:
    """Load a raw model, or an encoder with its contract checked against its weights; both keep the lowest layers."""
    source = fetched(resolve_model(settings.name))
    if not source.carries_contract:
        return load_backbone(settings, source=source, for_training=True)
    folder = Path(source.location)
    check_keepable(settings.layers, has := layer_count(folder))
    if 0 < settings.layers < has:
        logger.info("%s: training its lowest %d of %d layers", settings.name, settings.layers, has)
    if settings.quantization == "none":
        backbone = Encoder.load(settings.name, settings=settings.all_layers).backbone
        keep_lowest_layers(backbone.model, settings.layers)
        return backbone
    backbone = load_backbone(settings, source=source, for_training=True)
    load_contract(folder, backbone.tokenizer).check_files(folder)
    return backbone


def _read(
    config: FinetuneConfig, work: StageWork, given: Sequence[TrainingExample] | None, drawn_from: Sequence[str] = ()
) -> tuple[DrawnExamples, ValidationTask | None]:
    """Read the examples, hold some out, and make the search task of them."""
    seed, data, validation = config.optimizer.seed, config.data, config.validation
    held_out_seed = seed if validation.seed is None else validation.seed
    if given is None:
        splits = splits_of(data.source_list, data.split)
        read: Iterable[Iterable[TrainingExample]] = (
            limited_examples(source, data.limit, split=split, reading=config.reading, first=data.limited_to == "first")
            for source, split in zip(data.source_list, splits, strict=True)
        )
    else:
        read = [given]
    numbered = ((example, number) for number, found in enumerate(read) for example in found)
    checked = counting_cuts(checked_examples(numbered, config.contrastive), config)
    share = validation.held_out_share
    most = validation.max_queries
    whole = ((one, number) for number, source in enumerate(drawn_from) for one in read_examples(source))
    if data.streaming:
        path = work.begin() / SPOOL_FILE
        draw = partial(spooled_queries, path, share=share, most_held_out=most, seed=held_out_seed)
        queries = draw(whole) if drawn_from and share else None
        spool, held_out = spooled_examples(
            path, checked, share=share, most_held_out=most, seed=held_out_seed, queries=queries
        )
        examples = DrawnExamples(spool, Sizes(spool), config.contrastive, seed)
    else:
        queries = held_out_queries(whole, share, most, held_out_seed) if drawn_from and share else None
        rows, sources = [list(column) for column in zip(*checked, strict=True)] or ([], [])
        kept, out = hold_out(rows, share, most, held_out_seed, sources, queries)
        held_out = [(rows[row], sources[row]) for row in out]
        examples = DrawnExamples([rows[row] for row in kept], [sources[row] for row in kept], config.contrastive, seed)
    if not len(examples) + len(held_out):
        raise EmptyCorpusError("the data holds no labeled examples; give at least one query with a positive")
    if validation.source:
        return examples, read_validation(validation, examples.examples, held_out_seed, config.reading)
    if share and not held_out:
        why = "mining has dropped those that were" if queries else "each shares its passages with too many others"
        logger.warning(
            "no query is held out, because %s; give queries of their own in validation.source, or set validation.share "
            "to 0", why,
        )  # fmt: skip
    if not held_out:
        return examples, None
    chosen, numbers = [list(column) for column in zip(*held_out, strict=True)]
    return examples, examples_task(chosen, examples.examples, validation, held_out_seed, numbers)


def _with_steps(settings: FinetuneOptimizerSettings, examples: int) -> OptimizerSettings:
    """Turn epochs into steps; an epoch skips a last batch that is not full, and its last step takes what is left."""
    if settings.steps:
        return settings
    batches = examples // (settings.batch_size * process_count())
    in_epoch = ceil(batches / settings.accumulation)
    return settings.model_copy(update={"steps": max(1, ceil(settings.epochs * in_epoch))})


def _check_contrast(config: FinetuneConfig, examples: DrawnExamples) -> None:
    """Make sure that every query meets another query's passage or a hard negative."""
    alone = config.optimizer.batch_size * process_count() == 1 and config.contrastive.weight
    if alone and not (config.contrastive.negatives and all(example.negatives for example in examples.examples)):
        raise ConfigError(
            "optimizer.batch_size is 1 and some queries have no hard negative: nothing to contrast with; "
            "raise the batch size or give each query negatives"
        )


def _check_fits(config: FinetuneConfig, encoder: Encoder) -> None:
    """Make sure that widths and training lengths lie within the encoder's."""
    widest = matryoshka_widths(config.contrastive.dimensions, encoder.dimension)[-1]
    if widest > encoder.dimension:
        raise ConfigError(
            f"contrastive.dimensions: {widest} is wider than the model's vectors [D={encoder.dimension}]; lower it"
        )
    for field in ("query_max_tokens", "passage_max_tokens"):
        wanted, most = getattr(config.data, field), getattr(encoder.contract.encoder, field)
        if wanted > most:
            raise ConfigError(f"data.{field} is {wanted}, but the encoder reads {most} tokens; lower it or remove it")
