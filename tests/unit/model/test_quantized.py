"""Checkpoints with packed weights are refused in one line, before a corpus is read."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.adapt.stage import adapt_model
from llama2vec.config import load_config
from llama2vec.errors import MissingDependencyError, ModelError
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.finetune.stage import finetune_model
from llama2vec.model.backbone import load_backbone
from llama2vec.model.loading import model_errors
from llama2vec.model.quantized import check_quantization
from llama2vec.model.source import ModelSource
from llama2vec.pipeline.execution import execute
from llama2vec.pipeline.plan import plan_run
from llama2vec.pipeline.settings import RunConfig

BNB = {"_load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
GPTQ = {"quant_method": "gptq", "bits": 4}


@pytest.fixture
def quantized(llama_folder: Path, tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def make(how: dict[str, Any]) -> Path:
        folder = Path(shutil.copytree(llama_folder, tmp_path / "quantized"))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": how}))
        return folder

    return make


@pytest.mark.parametrize(("how", "method"), [(BNB, "bitsandbytes"), (GPTQ, "gptq")])
def test_packed_weights_are_not_trained_and_no_text_is_read(
    how: dict[str, Any], method: str, quantized: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    model, unread = quantized(how), tmp_path / "missing.jsonl"
    line = rf"quantized: its weights are quantized \({method}\), .*unquantized model, and set model.quantization=nf4"
    with pytest.raises(ModelError, match=line):
        adapt_model(load_config(AdaptConfig, None, [f"model.name={model}", f"text.corpus={unread}"]), tmp_path / "out")
    with pytest.raises(ModelError, match=line):
        finetune_model(
            load_config(FinetuneConfig, None, [f"model.name={model}", f"data.sources={unread}"]), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match=line):
        load_backbone(load_config(AdaptConfig, None, [f"model.name={model}"]).model, for_training=True)


def test_a_run_refuses_them_before_it_counts_passages(
    quantized: Callable[[dict[str, Any]], Path], tmp_path: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama2vec.pipeline.execution.count_passages", lambda *_: pytest.fail("a corpus was read"))
    given = [f"model.name={quantized(GPTQ)}", f"corpus={corpus_file}", "adapt=true"]
    plan = plan_run(load_config(RunConfig, None, given), tmp_path / "run")
    with pytest.raises(ModelError, match=r"quantized \(gptq\)"):
        execute(plan)


@pytest.mark.parametrize(
    ("method", "install"),
    [
        ("gptq", "pip install optimum gptqmodel"),
        ("awq", "pip install gptqmodel"),
        ("compressed-tensors", "pip install 'compressed-tensors>=0.15'"),
        ("bitsandbytes", "pip install 'llama2vec[qlora]'"),
    ],
)
def test_reading_them_names_the_packages_that_are_missing(
    method: str, install: str, quantized: Callable[[dict[str, Any]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    source = ModelSource("tiny", str(quantized({"quant_method": method})))
    with pytest.raises(MissingDependencyError) as caught:
        check_quantization(source, for_training=False)
    assert str(caught.value).endswith(f"({method}), and packages that read them are not installed; {install}")


@pytest.mark.parametrize("how", [{}, {"quant_method": "mxfp4"}, {"quant_method": "fp8"}])
def test_weights_that_are_unpacked_as_they_load_may_be_trained(
    how: dict[str, Any], quantized: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    check_quantization(ModelSource("tiny", str(quantized(how))), for_training=True)
    check_quantization(ModelSource("tiny", str(tmp_path), gguf_file="tiny.gguf"), for_training=True)


def test_a_multi_modal_checkpoint_may_say_it_of_its_language_model(
    quantized: Callable[[dict[str, Any]], Path],
) -> None:
    folder = quantized({})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "text_config": {"quantization_config": GPTQ}}))
    with pytest.raises(ModelError, match="gptq"):
        check_quantization(ModelSource("tiny", str(folder)), for_training=True)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("needs optimum (`pip install optimum`)", r"^tiny: needs optimum \(`pip install optimum`\)$"),
        ("no gguf", r"^tiny: no gguf; pip install 'llama2vec\[model\]'$"),
    ],
)
def test_a_package_that_transformers_names_is_the_only_one_named(said: str, line: str) -> None:
    with pytest.raises(MissingDependencyError, match=line), model_errors(ModelSource("tiny", "tiny")):
        raise ImportError(said)
