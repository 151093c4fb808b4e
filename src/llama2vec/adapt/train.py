"""The training of stage 1: its objective, what it prepares, and the encoder that comes out."""

from __future__ import annotations

import functools
import logging
import operator
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llama2vec.adapt.joint import JointBatch, joint_batch
from llama2vec.adapt.language_model_loss import IGNORED, language_model_loss
from llama2vec.adapt.micro_batches import PiecewiseGradients, micro_batches, most_cells
from llama2vec.adapt.pairs import MOST_HELD_OUT, check_followed, read_pairs, warn_of_cut_texts
from llama2vec.adapt.reader_choice import choose_reader
from llama2vec.adapt.reading import Read, Reader
from llama2vec.adapt.settings import AdaptConfig, ObjectiveSettings
from llama2vec.config import PromptName
from llama2vec.data.examples.spool import Spool
from llama2vec.data.settings import TextSettings
from llama2vec.data.text.words import chosen_stop_words, count_words
from llama2vec.errors import ConfigError, EmptyTargetsError
from llama2vec.model.adapters import add_slot_tokens_and_rows
from llama2vec.model.backbone import Backbone, load_backbone
from llama2vec.model.batching import chunks
from llama2vec.model.encoder import Encoder
from llama2vec.model.limits import check_servable
from llama2vec.model.prompt import PromptIds, Tokenizer, prompt_ids
from llama2vec.model.top_layers import check_droppable, check_standardizable, drop_top_layers, standardize
from llama2vec.pretext.loss import bag_of_tokens_loss
from llama2vec.pretext.targets import TargetTokenizer, inverse_document_frequency
from llama2vec.processes import process_count
from llama2vec.records import AdaptationExample, Passage
from llama2vec.terminal import counted, first_few
from llama2vec.training.loop import check_enough, mean_loss, train
from llama2vec.training.orders import LengthGroupedOrder, SpooledOrder
from llama2vec.training.output import StageWork
from llama2vec.training.saving import check_trainable, make_trainable, save_trained, training_precision
from llama2vec.training.settings import OptimizerSettings
from llama2vec.training.state import step_size_kept
from llama2vec.training.steps import COUNTS
from llama2vec.training.tracking import Tracking

logger = logging.getLogger(__name__)

_SAMPLE = 20_000  # Pairs that token weights and the share of cut texts are taken from, at least
_CHECKED_AT_ONCE = 64
_STANDARDIZING_TEXTS = 1_000


class PretextObjective:
    """EBAE and EBAR, plus the LM loss on T if its weight is set.

    ``token_weights`` [V] weigh the targets (None: uniformly); ``reader`` reads the prompts, in joint sequences or in
    separate ones; one pass reads at most ``micro_batch_tokens`` cells (rows x columns; 0: whole batches).
    """

    def __init__(
        self,
        tokenize: TargetTokenizer,
        prompts: PromptIds,
        settings: ObjectiveSettings,
        reader: Reader,
        pad_id: int,
        token_weights: Tensor | None = None,
        micro_batch_tokens: int = 0,
    ) -> None:
        self.tokenize, self.prompts, self.settings = tokenize, prompts, settings
        self.reader, self.pad_id, self.token_weights = reader, pad_id, token_weights
        self.micro_batch_tokens = micro_batch_tokens
        weights: dict[PromptName, float] = {"self": settings.self_weight, "next": settings.next_weight}
        self.weights = {task: weight for task, weight in weights.items() if weight}
        # A text without U leaves EBAE its weight: the factors are the same in every step.
        factor, total = settings.pretext_weight, sum(self.weights.values())
        self.factors = {f"loss_{task}": factor * weight / total for task, weight in self.weights.items()}
        self.factors["loss_lm"] = settings.language_model_weight

    def order(self, examples: Sequence[AdaptationExample], settings: OptimizerSettings) -> LengthGroupedOrder:
        """Put texts of about the same number of words into one batch."""
        if isinstance(examples, Spool):
            return SpooledOrder(examples, settings.batch_size, settings.seed)
        lengths = [count_words(example.text) for example in examples]
        return LengthGroupedOrder(lengths, settings.batch_size, settings.seed)

    def collate(self, examples: Sequence[AdaptationExample]) -> Mapping[str, Any]:
        """Return the examples as joint batches, one per micro-batch, the longest texts first."""
        texts = self.tokenize([example.text for example in examples])
        next_texts = self.tokenize([example.next_text for example in examples])
        tasks = tuple(self.weights)
        prefix, suffixes = len(self.prompts.prefix), [len(self.prompts.suffixes[task]) for task in tasks]
        cells = [self.reader.cells(prefix + len(text.ids), suffixes) for text in texts]
        pieces = [
            joint_batch(
                [texts[row] for row in rows], [next_texts[row] for row in rows], self.prompts,
                tasks=tasks, token_weights=self.token_weights, pad_id=self.pad_id,
            )
            for rows in micro_batches(cells, self.micro_batch_tokens)
        ]  # fmt: skip
        return {"joint": pieces, COUNTS: _summed([self._counts(piece) for piece in pieces])}

    def require_targets(self, examples: Iterable[AdaptationExample]) -> None:
        """Raise an EmptyTargetsError if no text of the examples has a target."""
        for part in chunks(examples, _CHECKED_AT_ONCE):
            if any(self.collate(part)[COUNTS][f"loss_{task}"] for task in self.weights):
                return
        raise EmptyTargetsError(
            "no text has a token to predict; all may be stop words, or the same in every text: set "
            "text.stop_words=none, or objective.token_weights=uniform"
        )

    def loss(self, model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Read each text; return the loss in nats, and ``loss_self``, ``loss_next`` and ``loss_lm``.

        A part is the sum over what the batch has to score, divided by the batch's counts: a mean over the batch, and
        where the counts are those of a whole step (:func:`llama2vec.training.steps.share_counts`), its share of the
        step's mean. With several pieces, the backward pass of each follows at once; ``backward`` of the returned loss
        then only scales the gradients.
        """
        pieces: list[JointBatch] = batch["joint"]
        divisors = {name: count for name, count in batch[COUNTS].items() if count}
        parts = dict.fromkeys(divisors, 0.0)
        piecewise = PiecewiseGradients(model) if len(pieces) > 1 and torch.is_grad_enabled() else None
        values = []
        for piece in pieces:
            counts = self._counts(piece)
            losses, value = self._losses(model, piece, counts)
            for name, loss in losses.items():
                share = counts[name] / divisors[name]
                value = value + self.factors[name] * share * loss
                parts[name] += share * loss.item()
            values.append(piecewise.add(value) if piecewise else value)
        total = functools.reduce(operator.add, values)
        return piecewise.scaled_by_backward(total) if piecewise else total, parts

    def _counts(self, joint: JointBatch) -> dict[str, int]:
        """Count what each part of the loss is a mean over: rows that have targets, and scored tokens."""
        counts = {f"loss_{task}": int((joint.target_weights[task].sum(dim=1) > 0).sum()) for task in self.weights}
        if self.settings.language_model_weight > 0:
            # Nothing precedes the very first token.
            counts["loss_lm"] = int((joint.text_lengths - max(joint.text_starts, 1)).clamp(min=0).sum())
        return counts

    def _losses(self, model: Any, joint: JointBatch, counts: Mapping[str, int]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the parts of a piece's loss that have something to score, and a zero to add them to."""
        joint = joint.to(next(model.parameters()).device)
        read = self.reader.read(model, joint, with_text=self.settings.language_model_weight > 0)
        losses: dict[str, Tensor] = {}
        for task, logits in zip(joint.layout.blocks, read.logits, strict=True):
            if counts[f"loss_{task}"]:
                losses[f"loss_{task}"] = bag_of_tokens_loss(logits, joint.targets[task], joint.target_weights[task])
        if counts.get("loss_lm"):
            losses["loss_lm"] = self._language_model_loss(model, read, joint)
        # A piece with nothing to predict (EBAR alone, documents of one piece) gives a zero that has a gradient.
        first = read.logits[0]
        return losses, first.sum() * 0.0 if not losses else first.new_zeros((), dtype=torch.float32)

    def validate(self, model: Any, held_out: Sequence[AdaptationExample], batch_size: int) -> dict[str, float]:
        """Return the mean loss and its parts."""
        return mean_loss(self, model, held_out, batch_size)

    def _language_model_loss(self, model: Any, read: Read, joint: JointBatch) -> Tensor:
        columns = joint.layout.text_columns
        labels = torch.full_like(joint.input_ids[:, :columns], IGNORED)
        labels[:, :-1] = joint.input_ids[:, 1:columns]
        position = torch.arange(columns, device=labels.device)
        # Position p predicts p + 1, which must be text and neither prefix nor padding.
        scored = (position + 1 >= joint.text_starts) & (position + 1 < joint.text_lengths[:, None])
        labels.masked_fill_(~scored, IGNORED)
        if read.text is None:
            assert read.text_logits is not None
            logits = read.text_logits.flatten(0, 1).float()
            return torch.nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED)
        head = getattr(model, "module", model).get_output_embeddings().weight
        return language_model_loss(read.text.reshape(-1, read.text.shape[-1]), head, labels.reshape(-1))


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(one[name] for one in counts) for name in counts[0]}


def train_adaptation(config: AdaptConfig, work: StageWork, passages: Iterable[Passage]) -> Encoder:
    """Train on passages and save; nothing is written before the model and the text have been read."""
    check_trainable(config.model)
    pairs = read_pairs(config, work, passages)
    examples, held_out, out, _ = pairs
    check_followed(pairs, config.objective)
    if not pairs.followed:  # As without EBAR, rather than with half of the weight on nothing
        config = config.model_copy(update={"objective": config.objective.model_copy(update={"next_weight": 0.0})})
    config = config.model_copy(update={"optimizer": step_size_kept(config.optimizer, work.path, "accumulation")})
    check_enough(len(examples), config.optimizer)
    read = f", of which the validation reads {MOST_HELD_OUT:,}" if out > MOST_HELD_OUT else ""
    logger.info("%s, %s held out%s", counted(len(examples), "training pair"), f"{out:,}", read)
    backbone, trainable, objective, mixed = _prepare(config, examples)
    started = time.monotonic()
    alone = process_count() == 1 or config.optimizer.sharding != "none"
    unreached = [] if alone else _unreached(trainable, objective, examples[:1], mixed=mixed)
    result = train(
        trainable, examples, held_out[:MOST_HELD_OUT], objective, config.optimizer, work.begin(),
        bf16=mixed, gradient_checkpointing=config.model.gradient_checkpointing, compile=config.model.compile is True,
        find_unused=bool(unreached), tracking=Tracking(config.tracking, work.output.name, work.plan),
    )  # fmt: skip
    backbone.model.eval()
    drop_top_layers(backbone.model, config.encoder.drop_layers)
    encoder = Encoder.from_backbone(backbone, config.prompts, config.encoder.of_contract)
    if config.encoder.standardize:
        texts = [example.text for example in examples[:: max(1, len(examples) // _STANDARDIZING_TEXTS)]]
        standardize(backbone.model, lambda: encoder.encode_passages(texts[:_STANDARDIZING_TEXTS]))
    facts = result.facts(started) | {"training_pairs": len(examples)}
    return save_trained(encoder, trainable, work, facts=facts)


def _unreached(
    model: Any, objective: PretextObjective, examples: Sequence[AdaptationExample], *, mixed: bool
) -> list[str]:
    """Return the names of the trainable weights that get no gradient, such as those of an idle part of a layer.

    DistributedDataParallel waits for the gradient of every weight unless it is told that some have none.
    """
    device = next(model.parameters()).device
    model.train()  # Some layers read other weights in evaluation
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.autocast(device.type, torch.bfloat16, enabled=mixed),
    ):
        loss, _ = objective.loss(model, objective.collate(examples))
    loss.backward()  # type: ignore[no-untyped-call]
    found = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    model.zero_grad()
    if found:
        logger.info(
            "%s of this model get no gradient and stay as they are: %s", counted(len(found), "weight"), first_few(found)
        )
    return found


def _prepare(
    config: AdaptConfig, examples: Sequence[AdaptationExample]
) -> tuple[Backbone, Any, PretextObjective, bool]:
    """Return the backbone, the model to train, the objective, and whether bfloat16 autocast multiplies its weights."""
    settings, mixed = training_precision(config.model)
    backbone = load_backbone(settings, for_training=True)
    backbone.require_head("adapt")
    new_tokens = add_slot_tokens_and_rows(backbone, config.prompts)
    prompts = prompt_ids(backbone.tokenizer, config.prompts)
    check_servable(prompts, config.encoder, backbone.tokenizer)
    check_droppable(backbone.model, config.encoder.drop_layers)
    if config.encoder.standardize:
        check_standardizable(backbone.model)
    room = _text_room(backbone, prompts, config.text)
    reader = choose_reader(
        backbone, prompts, config.objective.sequences, most_tokens=room,
        with_text=config.objective.language_model_weight > 0,
    )  # fmt: skip
    trainable = make_trainable(backbone, config.model, new_tokens, config.optimizer.seed)
    skip = chosen_stop_words(config.text.stop_words, config.text.language)
    tokenize = TargetTokenizer(
        backbone.tokenizer, room, skip, joined=config.objective.targets == "words",
        max_joined=_most_joined(backbone.tokenizer, config.text), language=config.text.language,
    )  # fmt: skip
    weights, sample = None, examples[:: max(1, len(examples) // _SAMPLE)]
    warn_of_cut_texts(sample, config, backbone.tokenizer, room)
    if config.objective.token_weights == "idf":
        texts = [example.text for example in sample]
        rows = backbone.model.get_input_embeddings().weight.shape[0]
        weights = torch.tensor(inverse_document_frequency([text.targets for text in tokenize(texts)], rows))
    eos = backbone.tokenizer.eos_token_id
    # The wrapper of several processes expects one forward pass per step, and shares are gathered by all or by none.
    alone = process_count() == 1 and config.optimizer.sharding == "none"
    micro_batch_tokens = most_cells(config.objective.micro_batch_tokens, backbone.model.device.type) if alone else 0
    objective = PretextObjective(tokenize, prompts, config.objective, reader, eos or 0, weights, micro_batch_tokens)
    objective.require_targets(examples)
    return backbone, trainable, objective, mixed


def _most_joined(tokenizer: Tokenizer, text: TextSettings) -> int:
    """Return how many tokens of the joined words are targets: as in the authors' code, what BOS leaves of the limit."""
    return text.max_tokens - (tokenizer.num_special_tokens_to_add() if text.count_prompts else 0)


def _text_room(backbone: Backbone, prompts: PromptIds, text: TextSettings) -> int:
    """Return the longest T in tokens: the limit, cut to what the prompts leave of the context, with a warning."""
    around = len(prompts.prefix) + sum(map(len, prompts.suffixes.values())) if text.count_prompts else 0
    wanted = text.max_tokens - around
    if wanted < 1:
        raise ConfigError(
            f"text.max_tokens is {text.max_tokens} and prefix and prompts take {around} of them; raise it"
        )
    context = getattr(backbone.model.config, "max_position_embeddings", None)
    if not context:
        return wanted
    room = prompts.room(context)
    if room < 1:
        raise ConfigError(
            f"{backbone.source.name}: the prompts fill its context of {context} tokens; choose shorter prompts"
        )
    if wanted > room:
        logger.warning("text.max_tokens is cut from %d to %d: the model reads %d tokens", wanted, room, context)
    return min(wanted, room)
