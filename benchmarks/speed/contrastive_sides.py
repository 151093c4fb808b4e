"""The sides of the fine-tuning comparison: forward and backward of one contrastive batch, same weights, same texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.speed.adaptation_sides import SWITCHED_ON
from benchmarks.speed.encoding_sides import library_modules, prompted

# What `llama2vec finetune` itself calls: the side measured is the one that users run.
from llama2vec.config import EncoderSettings, LoraSettings, ModelSettings
from llama2vec.finetune.batches import DrawnExamples
from llama2vec.finetune.settings import ContrastiveSettings, ExamplesSettings
from llama2vec.finetune.train import ContrastiveObjective
from llama2vec.model.adapters import add_lora
from llama2vec.model.backbone import load_backbone
from llama2vec.model.device import choose_device
from llama2vec.model.encoder import Encoder
from llama2vec.model.speed import fast_paths
from llama2vec.records import TrainingExample

Pairs = Sequence[tuple[str, str]]
TEMPERATURE = 0.02


def build_contrastive(
    side: str, model: str, dtype: str, *, compiled: bool = False, held: int = 0
) -> Callable[[Pairs], float]:
    """Build a side: a function that computes gradients and returns the loss of a batch of (query, positive).

    Args:
        side: ``ours``; ``cached`` = sentence-transformers' CachedMultipleNegativesRankingLoss with its default
            mini-batches of 32 texts; ``cached-tokens`` = with mini-batches of 1,024 tokens, our own number.
        model: Folder of the model.
        dtype: Number format of its weights.
        compiled: Compile our layers (``model.compile=true``).
        held: Most cells whose activations we hold (``contrastive.graph_tokens``).
    """
    if side == "ours":
        return _ours(model, dtype, compiled=compiled, held=held)
    return _sentence_transformers(model, dtype, None if side == "cached" else 1024)


def _ours(model: str, dtype: str, *, compiled: bool, held: int) -> Callable[[Pairs], float]:
    backbone = load_backbone(ModelSettings(name=model, dtype=dtype))
    encoder = Encoder.from_backbone(backbone, settings=EncoderSettings())
    trainable = add_lora(backbone, LoraSettings(), [], 0).train()
    SWITCHED_ON.enter_context(fast_paths(trainable, compiled=compiled))
    settings = ContrastiveSettings(temperature=TEMPERATURE, negatives=0, graph_tokens=held)
    objective = ContrastiveObjective(encoder, settings, ExamplesSettings())

    def step(pairs: Pairs) -> float:
        rows = DrawnExamples([TrainingExample(query, (positive,)) for query, positive in pairs], None, settings, 0)
        trainable.zero_grad()
        loss, _ = objective.loss(trainable, objective.collate([rows[row] for row in range(len(rows))]))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    return step


def _sentence_transformers(model: str, dtype: str, mini_batch_tokens: int | None) -> Callable[[Pairs], float]:
    from peft import LoraConfig
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    transformer, pooling = library_modules(model, dtype)
    library = SentenceTransformer(modules=[transformer, pooling], device=str(choose_device()))
    ours = LoraSettings()
    library.add_adapter(
        LoraConfig(r=ours.rank, lora_alpha=ours.alpha, target_modules="all-linear", task_type="FEATURE_EXTRACTION")
    )
    library.train()
    batches: dict[str, Any] = {"mini_batch_num_tokens": mini_batch_tokens} if mini_batch_tokens else {}
    objective = CachedMultipleNegativesRankingLoss(library, scale=1 / TEMPERATURE, **batches)

    def step(pairs: Pairs) -> float:
        sides = ([query for query, _ in pairs], [positive for _, positive in pairs])
        features = [library.preprocess(prompted(texts, transformer.tokenizer)) for texts in sides]
        library.zero_grad()
        loss = objective(features, None)
        loss.backward()
        return float(loss.item())

    return step
