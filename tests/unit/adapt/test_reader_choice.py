"""A model gets joint sequences only if they give the logits of separate ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.fidelity.architectures import save_tiny
from llama2vec.adapt import reader_choice
from llama2vec.adapt.joint import attention_inputs
from llama2vec.adapt.reader_choice import choose_reader, joint_fault
from llama2vec.adapt.reading import JointReader, SeparateReader
from llama2vec.config import PROMPT_RECIPES, ModelSettings, PromptSettings
from llama2vec.errors import ModelError
from llama2vec.model.adapters import add_slot_tokens_and_rows
from llama2vec.model.backbone import Backbone, load_backbone
from llama2vec.model.prompt import PromptIds, prompt_ids
from llama2vec.model.source import ModelSource


def backbone_of(model: Any, tokenizer: Any) -> tuple[Backbone, PromptIds]:
    return Backbone(model, tokenizer, ModelSource("tiny", "tiny")), prompt_ids(tokenizer, PromptSettings())


def load(folder: Path, dtype: str = "float32") -> tuple[Backbone, PromptIds]:
    backbone = load_backbone(ModelSettings(name=str(folder), dtype=dtype, device="cpu"))
    return backbone, prompt_ids(backbone.tokenizer, PromptSettings())


def test_every_model_whose_layers_all_attend_reads_jointly_and_nothing_is_said(
    make_model: Callable[..., Any], tokenizer: Any, architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    for attention in ("sdpa", "eager"):
        backbone, prompts = backbone_of(make_model(architecture, attention=attention), tokenizer)
        with caplog.at_level(logging.INFO):
            reader = choose_reader(backbone, prompts, "auto", most_tokens=64)
        assert (isinstance(reader, JointReader), caplog.text) == (True, "")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mamba", "layers of kind linear_attention cannot read a joint sequence"),
        ("lfm2", "layers of kind conv cannot read a joint sequence"),
        ("bloom", "it cannot read a joint sequence (too many values"),
        ("mpt", "a joint sequence changes its logits by"),
        ("gpt_neo", "a joint sequence changes its logits by"),
    ],
)
def test_other_models_get_separate_sequences_and_one_line(
    kind: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backbone, prompts = load(save_tiny(kind, tmp_path))
    with caplog.at_level(logging.INFO):
        reader = choose_reader(backbone, prompts, "auto", most_tokens=64)
    assert isinstance(reader, SeparateReader)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{tmp_path}: {reason}")
    assert line.endswith("each prompt gets a sequence of its own, up to twice the work")
    with pytest.raises(ModelError, match=r"set objective\.sequences to 'auto' or 'separate'$") as refused:
        choose_reader(backbone, prompts, "joint", most_tokens=64)
    assert "\n" not in str(refused.value)


def test_a_window_that_no_text_outgrows_does_not_matter(tmp_path: Path) -> None:
    # GPT-Neo counts its window of 32 tokens in columns, which the joint sequence shifts.
    backbone, _ = load(save_tiny("gpt_neo", tmp_path))
    prompts = PromptIds((1,), {"self": (5, 2), "next": (6, 2)}, 1)
    assert joint_fault(backbone, prompts, most_tokens=20) == ""
    assert "changes its logits" in joint_fault(backbone, prompts, most_tokens=64)


def test_separate_sequences_may_be_asked_for(make_model: Callable[..., Any], tokenizer: Any) -> None:
    backbone, prompts = backbone_of(make_model("llama"), tokenizer)
    backbone.padding_changes_vectors = True
    reader = choose_reader(backbone, prompts, "separate", most_tokens=64)
    assert isinstance(reader, SeparateReader)
    assert reader.equal_lengths


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", ["no mask", "a boolean mask", "a mask that shows SELF to NEXT", "not a number"])
def test_a_planted_fault_is_found_in_every_number_format(
    fault: str, dtype: torch.dtype, make_model: Callable[..., Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, prompts = backbone_of(make_model("llama", attention="eager").to(dtype), tokenizer)
    # A larger model is compared in its own format.
    for affordable in (reader_choice._AFFORDABLE_WEIGHTS, 0):
        monkeypatch.setattr(reader_choice, "_AFFORDABLE_WEIGHTS", affordable)
        assert joint_fault(backbone, prompts, most_tokens=64) == ""

        def faulty(batch: Any, config: Any, dtype: torch.dtype) -> dict[str, Any]:
            mask = attention_inputs(batch, config, dtype)["attention_mask"]
            if fault == "a mask that shows SELF to NEXT":
                (start, end), (other, stop) = batch.layout.blocks["self"], batch.layout.blocks["next"]
                mask[..., other:stop, start:end] = 0
            changed = {"no mask": None, "a boolean mask": mask == 0, "not a number": mask * float("nan")}
            return {"attention_mask": changed.get(fault, mask)}

        with monkeypatch.context() as patch:
            patch.setattr("llama2vec.adapt.reading.attention_inputs", faulty)
            assert "a joint sequence changes its logits by" in joint_fault(backbone, prompts, most_tokens=64)


def test_the_comparison_in_float32_leaves_the_weights_as_they_were(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, prompts = load(llama_folder, "bfloat16")
    before = {name: (one.data_ptr(), one.clone()) for name, one in backbone.model.state_dict().items()}
    formats = []
    hook = backbone.model.register_forward_pre_hook(lambda model, _: formats.append(model.dtype))
    choose_reader(backbone, prompts, "auto", most_tokens=64)
    hook.remove()
    assert set(formats) == {torch.float32}
    for name, one in backbone.model.state_dict().items():
        assert one.dtype == torch.bfloat16
        assert one.data_ptr() == before[name][0]
        assert torch.equal(one, before[name][1])
    monkeypatch.setattr(reader_choice, "joint_difference", lambda *_, **__: 1 / 0)
    assert "division by zero" in joint_fault(backbone, prompts, most_tokens=64)
    assert backbone.model.dtype == torch.bfloat16


@pytest.mark.parametrize(("kind", "plain"), [("llama", True), ("gemma2", False), ("phi", False), ("cohere", False)])
def test_whole_logits_are_taken_for_the_lm_loss_where_a_head_is_more_than_a_product(
    kind: str, plain: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backbone, prompts = load(save_tiny(kind, tmp_path))
    if kind == "phi":
        torch.nn.init.normal_(backbone.model.lm_head.bias)
    with caplog.at_level(logging.INFO):
        readers = [
            choose_reader(backbone, prompts, sequences, most_tokens=64, with_text=True)
            for sequences in ("joint", "separate")
        ]
    assert [reader.plain_head for reader in readers] == [plain, plain]
    assert ("the LM loss takes whole logits" in caplog.text) is not plain


def test_new_slot_tokens_and_a_short_context_are_no_obstacle(save_model: Callable[..., Path], tmp_path: Path) -> None:
    backbone, _ = load(save_model(tmp_path, "gpt2", n_positions=128))
    add_slot_tokens_and_rows(backbone, PROMPT_RECIPES["released"])
    prompts = prompt_ids(backbone.tokenizer, PROMPT_RECIPES["released"])
    room = prompts.room(128)
    assert isinstance(choose_reader(backbone, prompts, "joint", most_tokens=room), JointReader)
