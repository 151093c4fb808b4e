"""Separate sequences give the logits, the losses and the gradients of joint ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.fidelity.architectures import save_tiny
from llama2vec.adapt.joint import joint_batch
from llama2vec.adapt.reading import JointReader, Reader, SeparateReader, separate_rows
from llama2vec.adapt.settings import ObjectiveSettings
from llama2vec.adapt.train import PretextObjective
from llama2vec.config import LoraSettings, ModelSettings, PromptSettings
from llama2vec.model.adapters import add_lora
from llama2vec.model.backbone import Backbone, load_backbone
from llama2vec.model.prompt import PromptIds, prompt_ids
from llama2vec.model.source import ModelSource
from llama2vec.pretext.targets import TargetTokenizer, TokenizedText
from llama2vec.records import AdaptationExample

PROMPTS = PromptIds(prefix=(1, 4), suffixes={"self": (5, 6, 7), "next": (5, 8, 9, 10, 7)}, slots=2)
PAIRS = [
    ("The ferry leaves the old harbor at noon.", "It crosses the bay."),
    ("Snow.", "The market was closed all winter."),
    ("Two painters carried a ladder through the market.", ""),
]


def texts_of(lengths: list[int]) -> list[TokenizedText]:
    draw = torch.Generator().manual_seed(0)
    return [TokenizedText(tuple(torch.randint(12, 120, (n,), generator=draw).tolist()), (13,)) for n in lengths]


def slots_one_by_one(model: Any, texts: list[TokenizedText], task: Any) -> torch.Tensor:
    """Slot logits [B, S, V] by one stock call for each text."""
    rows = [torch.tensor([PROMPTS.wrap(text.ids, task, 999)]) for text in texts]
    with torch.no_grad():
        return torch.cat([model(input_ids=row, use_cache=False).logits[:, -PROMPTS.slots :] for row in rows])


def objective_for(backbone: Backbone, reader: Reader, micro_batch_tokens: int = 0, **settings: Any) -> PretextObjective:
    prompts = prompt_ids(backbone.tokenizer, PromptSettings(self_prompt=" same: ", next_prompt=" next one: "))
    tokenize = TargetTokenizer(backbone.tokenizer, 24, None)
    return PretextObjective(
        tokenize, prompts, ObjectiveSettings(**settings), reader, 2, micro_batch_tokens=micro_batch_tokens
    )


def gradients_of(model: Any, objective: PretextObjective) -> tuple[float, dict[str, float], dict[str, torch.Tensor]]:
    model.zero_grad()
    loss, parts = objective.loss(model, objective.collate([AdaptationExample(*pair) for pair in PAIRS]))
    loss.backward()
    return loss.item(), parts, {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        room = 1e-5 * float(value.abs().max()) + 1e-8
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=room, msg=name)


def test_rows_hold_each_text_with_each_prompt_and_the_slots_end_them() -> None:
    texts = texts_of([4, 1])
    rows = separate_rows(joint_batch(texts, texts, PROMPTS, pad_id=2), pad_id=99)
    expected = [PROMPTS.wrap(text.ids, task, 9) for task in ("self", "next") for text in texts]
    assert rows.lengths.tolist() == [len(row) for row in expected]
    assert rows.input_ids.tolist() == [row + [99] * (11 - len(row)) for row in expected]
    for row, columns, ids in zip(rows.input_ids, rows.slots, expected, strict=True):
        assert row[columns].tolist() == ids[-2:]


@pytest.mark.parametrize("equal_lengths", [False, True])
@pytest.mark.parametrize("kind", ["llama", "mistral_window", "gpt2", "gemma"])
def test_separate_sequences_give_the_logits_of_stock_calls(
    make_model: Callable[..., Any], kind: str, equal_lengths: bool
) -> None:
    model, texts = make_model(kind), texts_of([20, 3, 9, 0])
    batch = joint_batch(texts, texts, PROMPTS, pad_id=2)
    with torch.no_grad():
        read = SeparateReader(2, equal_lengths=equal_lengths).read(model, batch)
        joint = JointReader(model.config, torch.float32).read(model, batch)
    for task, logits, of_joint in zip(("self", "next"), read.logits, joint.logits, strict=True):
        expected = slots_one_by_one(model, texts, task)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        torch.testing.assert_close(of_joint, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["mamba2", "qwen3_next", "lfm2", "falcon_h1", "bloom", "mpt", "gpt_neo"])
def test_models_without_a_mask_give_the_logits_of_stock_calls_and_learn(kind: str, tmp_path: Any) -> None:
    backbone = load_backbone(ModelSettings(name=str(save_tiny(kind, tmp_path)), dtype="float32", device="cpu"))
    texts = texts_of([20, 3, 9, 0])
    with torch.no_grad():
        read = SeparateReader(2).read(backbone.model, joint_batch(texts, texts, PROMPTS, pad_id=2))
    for task, logits in zip(("self", "next"), read.logits, strict=True):
        expected = slots_one_by_one(backbone.model, texts, task)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    model = add_lora(backbone, LoraSettings(rank=4), [], seed=0)
    objective = objective_for(backbone, SeparateReader(2))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        losses.append(gradients_of(model, objective)[0])
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("language_model_weight", [0.0, 0.7])
@pytest.mark.parametrize(("rank", "most"), [(0, 0), (4, 0), (4, 60)])
def test_both_readers_have_the_same_losses_and_gradients(
    llama_folder: Any, rank: int, language_model_weight: float, most: int
) -> None:
    backbone = load_backbone(ModelSettings(name=str(llama_folder), dtype="float32", device="cpu"))
    model = add_lora(backbone, LoraSettings(rank=rank), [], 0) if rank else backbone.model
    settings = {"language_model_weight": language_model_weight, "next_weight": 0.3}
    joint = objective_for(backbone, JointReader(backbone.model.config, torch.float32), **settings)
    loss, parts, gradients = gradients_of(model, joint)
    for equal_lengths in (False, True):
        reader = SeparateReader(2, equal_lengths=equal_lengths)
        found, found_parts, found_gradients = gradients_of(model, objective_for(backbone, reader, most, **settings))
        assert (found, found_parts) == (pytest.approx(loss, rel=1e-5), pytest.approx(parts, rel=1e-5))
        assert_same_gradients(found_gradients, gradients)


@pytest.mark.parametrize("kind", ["cohere", "gemma2", "granite"])
def test_the_lm_loss_of_a_head_that_scales_or_caps_is_that_of_the_models_own_logits(kind: str, tmp_path: Any) -> None:
    backbone = load_backbone(ModelSettings(name=str(save_tiny(kind, tmp_path)), dtype="float32", device="cpu"))
    for name in ("logit_scale", "logits_scaling"):
        if hasattr(backbone.model, name):
            setattr(backbone.model, name, 3.0)
    backbone.model.config.final_logit_softcapping = 0.1 if kind == "gemma2" else None
    prompts = prompt_ids(backbone.tokenizer, PromptSettings())
    total, count = 0.0, 0
    for text, _ in PAIRS:
        ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"][:24]
        with torch.no_grad():
            logits = backbone.model(torch.tensor([[*prompts.prefix, *ids]]), use_cache=False).logits[0]
        total -= sum(float(row.log_softmax(-1)[token]) for row, token in zip(logits, ids, strict=False))
        count += len(ids)
    readers = (
        JointReader(backbone.model.config, torch.float32, plain_head=False),
        SeparateReader(2, plain_head=False),
        SeparateReader(2, plain_head=False, equal_lengths=True),
    )
    for reader in readers:
        _, parts, _ = gradients_of(backbone.model, objective_for(backbone, reader, language_model_weight=1.0))
        assert parts["loss_lm"] == pytest.approx(total / count, rel=1e-5)


def test_the_head_computes_at_the_slots_alone(make_model: Callable[..., Any]) -> None:
    model, texts, rows = make_model("llama"), texts_of([20, 3]), []
    model.get_output_embeddings().register_forward_hook(lambda _, __, logits: rows.append(tuple(logits.shape)))
    SeparateReader(2).read(model, joint_batch(texts, texts, PROMPTS, pad_id=2))
    assert rows == [(4, 2, 120)]
    model(input_ids=torch.arange(5)[None])
    assert rows[1] == (1, 5, 120)


def test_with_equal_lengths_the_model_meets_no_padding(make_model: Callable[..., Any]) -> None:
    model, texts, seen = make_model("llama"), texts_of([5, 3, 1]), []
    model.register_forward_pre_hook(lambda _, __, given: seen.append(given["input_ids"].clone()), with_kwargs=True)
    SeparateReader(119, equal_lengths=True).read(model, joint_batch(texts, texts, PROMPTS, pad_id=119))
    # Lengths with SELF 10, 8, 6 and with NEXT 12, 10, 8.
    assert [tuple(ids.shape) for ids in seen] == [(1, 6), (2, 8), (2, 10), (1, 12)]
    assert not any((ids == 119).any() for ids in seen)


def test_a_model_whose_head_is_no_module_is_read_all_the_same(make_model: Callable[..., Any], tokenizer: Any) -> None:
    model, texts = make_model("llama"), texts_of([6, 2])
    batch = joint_batch(texts, texts, PROMPTS, pad_id=2)
    expected = SeparateReader(2).read(model, batch).logits
    model.get_output_embeddings = lambda: None
    for one, other in zip(SeparateReader(2).read(model, batch).logits, expected, strict=True):
        torch.testing.assert_close(one, other)
    backbone = Backbone(model, tokenizer, ModelSource("tiny", "tiny"))
    reader = SeparateReader(2, plain_head=False)
    assert gradients_of(model, objective_for(backbone, reader, language_model_weight=1.0))[1]["loss_lm"] > 0
