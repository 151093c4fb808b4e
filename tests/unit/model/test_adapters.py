"""What training adds: slot rows that start from real ones, and LoRA adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.fidelity.architectures import save_tiny
from llama2vec.adapt.reading import JointReader, SeparateReader
from llama2vec.adapt.settings import ObjectiveSettings
from llama2vec.adapt.train import PretextObjective
from llama2vec.config import PROMPT_RECIPES, LoraSettings, ModelSettings, PromptSettings
from llama2vec.errors import ConfigError
from llama2vec.model.adapters import add_lora, add_slot_tokens_and_rows
from llama2vec.model.backbone import Backbone, load_backbone
from llama2vec.model.encoder import Encoder
from llama2vec.model.prompt import prompt_ids
from llama2vec.pretext.targets import TargetTokenizer
from llama2vec.records import AdaptationExample

RELEASED = PROMPT_RECIPES["released"]


def load(folder: Path | str, **settings: Any) -> Backbone:
    return load_backbone(ModelSettings(name=str(folder), dtype="float32", device="cpu", **settings))


@pytest.mark.parametrize("tied", [False, True])
def test_new_slot_rows_start_from_real_embeddings_and_differ(
    llama_folder: Path, tied_llama_folder: Path, tied: bool
) -> None:
    backbone = load(tied_llama_folder if tied else llama_folder)
    model, tokenizer = backbone.model, backbone.tokenizer
    old_inputs = model.get_input_embeddings().weight.detach().clone()
    old_head = model.get_output_embeddings().weight.detach().clone()
    new = add_slot_tokens_and_rows(backbone, RELEASED)
    inputs, head = model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()
    assert (inputs.data_ptr() == head.data_ptr()) is tied
    assert inputs.shape[0] == head.shape[0] == len(tokenizer) == 136
    assert model.config.vocab_size == 136
    torch.testing.assert_close(inputs[:120], old_inputs, rtol=0, atol=0)
    torch.testing.assert_close(head[:120], old_head, rtol=0, atol=0)
    words = tokenizer(RELEASED.self_prompt + RELEASED.next_prompt, add_special_tokens=False)["input_ids"]
    for table, old in ((inputs, old_inputs), (head, old_head)):
        rows = table[tokenizer.convert_tokens_to_ids(new)]
        real = old[sorted(set(words))]
        assert bool(rows.isfinite().all())
        # Inside the cloud of the wording's own embeddings, around its mean.
        spread = (real - real.mean(0)).norm(dim=1)
        assert bool(((rows - real.mean(0)).norm(dim=1) <= spread.max()).all())
        assert bool((rows.norm(dim=1) <= real.norm(dim=1).max()).all())
        distances = torch.cdist(rows, rows) + torch.eye(16)
        assert float(distances.min()) > 1e-3


def test_slots_that_are_there_already_keep_their_rows(llama_folder: Path) -> None:
    backbone = load(llama_folder)
    add_slot_tokens_and_rows(backbone, RELEASED)
    before = backbone.model.get_input_embeddings().weight.detach().clone()
    assert add_slot_tokens_and_rows(backbone, RELEASED) == []
    torch.testing.assert_close(backbone.model.get_input_embeddings().weight.detach(), before, rtol=0, atol=0)


def test_spare_rows_of_a_padded_vocabulary_are_used_and_not_left_as_they_are(
    save_model: Callable[..., Path], tmp_path: Path
) -> None:
    backbone = load(save_model(tmp_path, "llama", vocabulary=160))
    before = backbone.model.get_input_embeddings().weight.detach().clone()
    new = add_slot_tokens_and_rows(backbone, RELEASED)
    after = backbone.model.get_input_embeddings().weight.detach()
    assert after.shape == before.shape
    ids = backbone.tokenizer.convert_tokens_to_ids(new)
    assert bool((after[ids] != before[ids]).any(dim=1).all())


def objective_for(backbone: Backbone, prompts: PromptSettings) -> PretextObjective:
    return PretextObjective(
        TargetTokenizer(backbone.tokenizer, 24, None),
        prompt_ids(backbone.tokenizer, prompts),
        ObjectiveSettings(),
        JointReader(backbone.model.config, backbone.model.dtype),
        pad_id=2,
    )


def take_steps(model: Any, objective: PretextObjective, sentences: list[str], steps: int = 4) -> list[float]:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    batch = objective.collate([AdaptationExample(*sentences[row : row + 2]) for row in (0, 2, 4)])
    losses = []
    for _ in range(steps):
        loss, _ = objective.loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("tied", [False, True])
def test_slot_rows_are_trained_under_lora_and_saved(
    llama_folder: Path, tied_llama_folder: Path, tied: bool, sentences: list[str], tmp_path: Path
) -> None:
    backbone = load(tied_llama_folder if tied else llama_folder)
    new = add_slot_tokens_and_rows(backbone, RELEASED)
    ids = backbone.tokenizer.convert_tokens_to_ids(new)
    start_inputs = backbone.model.get_input_embeddings().weight.detach().clone()
    start_head = backbone.model.get_output_embeddings().weight.detach().clone()
    model = add_lora(backbone, LoraSettings(rank=4, alpha=8), new, seed=0)
    objective = objective_for(backbone, RELEASED)
    losses = take_steps(model, objective, sentences)
    assert losses[-1] < losses[0]
    probe = torch.tensor([[*range(5, 20), *ids]])
    with torch.no_grad():
        trained_logits = model(input_ids=probe).logits
    backbone.model = model.merge_and_unload().eval()
    merged_inputs = backbone.model.get_input_embeddings().weight.detach().clone()
    merged_head = backbone.model.get_output_embeddings().weight.detach().clone()
    assert bool(((merged_inputs[ids] - start_inputs[ids]).abs().amax(dim=1) > 1e-3).all())
    torch.testing.assert_close(merged_inputs[:120], start_inputs[:120], rtol=0, atol=0)
    if tied:
        assert bool(((merged_head[ids] - start_head[ids]).abs().amax(dim=1) > 1e-3).all())
    with torch.no_grad():
        torch.testing.assert_close(backbone.model(input_ids=probe).logits, trained_logits, rtol=1e-4, atol=1e-5)
    Encoder.from_backbone(backbone, RELEASED).save(tmp_path)
    again = load(tmp_path).model
    torch.testing.assert_close(again.get_input_embeddings().weight.detach(), merged_inputs, rtol=0, atol=0)
    torch.testing.assert_close(again.get_output_embeddings().weight.detach(), merged_head, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=probe).logits, trained_logits, rtol=1e-4, atol=1e-5)


def test_lora_trains_every_architecture(
    save_model: Callable[..., Path], tmp_path: Path, architecture: str, sentences: list[str]
) -> None:
    backbone = load(save_model(tmp_path, architecture))
    paper = PromptSettings()
    model = add_lora(backbone, LoraSettings(rank=4), [], seed=0)
    losses = take_steps(model, objective_for(backbone, paper), sentences, steps=6)
    assert losses[-1] < losses[0]


def test_the_adapters_start_from_the_seed(llama_folder: Path) -> None:
    def adapters(seed: int) -> dict[str, torch.Tensor]:
        model = add_lora(load(llama_folder), LoraSettings(rank=4), [], seed)
        return {name: weight for name, weight in model.named_parameters() if "lora_A" in name}

    first, second, other = adapters(0), adapters(0), adapters(1)
    assert len(first) == 14
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("targets", "depth", "message"),
    [
        (["q_proj", "nope"], 1, "no projection 'nope'; it has down_proj, gate_proj, k_proj"),
        (["foo.q_proj"], 1, "no projection 'foo.q_proj'; it has down_proj"),
        ([], 1, "names none of the model's projections; it has down_proj"),
        ("nope", 1, "no projection of the model matches 'nope'; it has down_proj"),
        ("[", 1, r"'\[' is neither a projection of the model nor a regular expression \(.*; it has down_proj"),
        (".*", 1, r"peft cannot adapt '\.\*' of this model; it has down_proj"),
        (".*q_proj", 0.5, r"lora\.depth: a regular expression in lora\.targets chooses the layers itself"),
    ],
)
def test_targets_that_the_model_does_not_have_are_one_line(
    targets: str | list[str], depth: float, message: str, llama_folder: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        add_lora(load(llama_folder), LoraSettings(targets=targets, depth=depth), [], seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [1, 0.5])
def test_one_projection_may_be_named_without_a_list(depth: float, llama_folder: Path) -> None:
    def adapted(targets: str | list[str]) -> list[str]:
        model = add_lora(load(llama_folder), LoraSettings(targets=targets, depth=depth), [], seed=0)
        return [name for name, _ in model.named_parameters() if "lora_A" in name]

    assert adapted("q_proj") == adapted(["q_proj"])
    assert len(adapted("q_proj")) == 2 * depth
    assert len(adapted(["self_attn.q_proj"])) == 2 * depth


def test_slots_without_wording_start_from_rows_of_the_whole_table(llama_folder: Path) -> None:
    backbone = load(llama_folder)
    new = add_slot_tokens_and_rows(backbone, PromptSettings(self_prompt="", next_prompt="", slots=2))
    rows = backbone.model.get_input_embeddings().weight.detach()[backbone.tokenizer.convert_tokens_to_ids(new)]
    assert bool(rows.isfinite().all())
    assert len(rows.unique(dim=0)) == len(new) == 4


def test_a_hybrid_mamba_model_gets_adapters_where_peft_allows_them(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "mamba_d_ssm": 64}
    mamba = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8}
    config = AutoConfig.for_model(
        "falcon_h1", **sizes, **mamba, num_key_value_heads=2, intermediate_size=48, bos_token_id=1, eos_token_id=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = add_lora(load(tmp_path), LoraSettings(rank=2), [], seed=0)
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert {"q_proj", "in_proj", "down_proj"} <= adapted
    assert not adapted & {"out_proj", "conv1d"}


@pytest.mark.parametrize("kind", ["llama4_text", "phimoe"])
def test_a_router_that_gives_no_tensor_gets_no_adapter(kind: str, tmp_path: Path, sentences: list[str]) -> None:
    backbone = load(save_tiny(kind, tmp_path))
    model = add_lora(backbone, LoraSettings(rank=4), [], seed=0)
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    assert any(name.endswith("q_proj") for name in adapted)
    assert not any("router" in name for name in adapted)
    prompts = prompt_ids(backbone.tokenizer, PromptSettings())
    tokenize = TargetTokenizer(backbone.tokenizer, 24, None)
    objective = PretextObjective(tokenize, prompts, ObjectiveSettings(), SeparateReader(2), pad_id=2)
    losses = take_steps(model, objective, sentences, steps=6)
    assert losses[-1] < losses[0]
