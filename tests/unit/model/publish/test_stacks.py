from __future__ import annotations

from pathlib import Path

from encoders import encoder_for

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, PromptSettings
from llama2vec.model.contract import Contract
from llama2vec.model.publish.stacks import stack_lines, stacks_of


def contract(folder: Path, prompts: PromptSettings | None = None, **settings: object) -> Contract:
    return encoder_for(folder, prompts, EncoderSettings.model_validate(settings)).contract


def test_a_servable_encoder_opens_everywhere_as_it_is(llama_folder: Path) -> None:
    found = {one.name: one for one in stacks_of(contract(llama_folder, servable=True), "llama")}
    assert all(one.opens for one in found.values())
    assert {found[name].how for name in ("sentence-transformers", "vLLM", "TEI")} == {"as it is"}
    assert stack_lines(contract(llama_folder, servable=True), "llama")[0].startswith(
        "opens in sentence-transformers (as it is), ONNX Runtime (after `llama2vec export`), vLLM (as it is)"
    )


def test_layers_and_prompts_that_no_server_knows_are_the_reason(llama_folder: Path) -> None:
    lines = stack_lines(contract(llama_folder, PROMPT_RECIPES["released"], layers=2, query_prompt="next"), "llama")
    assert lines == [
        "opens in sentence-transformers (with trust_remote_code=True, which runs portable_encoder.py), ONNX Runtime "
        "(after `llama2vec export`)",
        "not in vLLM, TEI, llama.cpp: its vectors are the mean of 2 layers; its vectors are the mean of 8 slots; train "
        "with encoder.servable = true for these",
    ]


def test_one_layer_without_servable_leaves_the_prompt_to_the_client(llama_folder: Path) -> None:
    found = {one.name: one for one in stacks_of(contract(llama_folder, query_prompt="next"), "llama")}
    assert found["vLLM"].how == "if your client sends the prompts"
    assert found["TEI"].how == "if your client sends the prompts, with --pooling last-token"


def test_an_architecture_that_tei_does_not_know(llama_folder: Path) -> None:
    lines = stack_lines(contract(llama_folder, servable=True), "gpt2")
    assert lines[1] == "not in TEI: it does not know the architecture gpt2"


def test_what_export_refuses_is_not_promised(llama_folder: Path, longrope_folder: Path) -> None:
    found = {
        "mamba": stack_lines(contract(llama_folder), "mamba"),
        "padding": stack_lines(contract(llama_folder), "llama", padding_matters=True),
        "longrope": stack_lines(contract(longrope_folder), "phi3"),
    }
    assert all("ONNX" not in lines[0] for lines in found.values())
    assert "not in ONNX Runtime: torch's exporter cannot write the architecture mamba" in found["mamba"]
    for name in ("padding", "longrope"):
        assert "not in ONNX Runtime: texts of different length must not share a batch of it" in found[name]
