"""vLLM as the place of encoding, against a stand-in with its documented interface: not run against vLLM itself."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from encoders import encoder_for
from running import CommandLine

from llama2vec.config import EncoderSettings, ModelSettings
from llama2vec.errors import BackendError, ConfigError, ContractError, MissingDependencyError
from llama2vec.model.backbone import decoder
from llama2vec.model.encoder import Encoder
from llama2vec.model.source import ModelSpec, resolve_model
from llama2vec.records import Passage
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.vllm_encoding import VllmEncoder


@dataclass
class StandIn:
    """What the documentation of vLLM 0.22 says of ``LLM`` and ``LLM.embed``; its vectors come from plain transformers.

    ``change`` edits the answers, ``fail`` is called before each.
    """

    started: list[dict[str, Any]] = field(default_factory=list)
    asked: list[list[list[int]]] = field(default_factory=list)
    change: Callable[[list[Any]], list[Any]] = lambda found: found
    fail: Callable[[], None] = lambda: None
    pooling: str = "last"

    def module(self) -> ModuleType:
        made = ModuleType("vllm")
        made.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
        made.LLM = lambda **given: self._start(given)  # type: ignore[attr-defined]
        return made

    def _start(self, given: dict[str, Any]) -> SimpleNamespace:
        self.started.append(given)
        model = encoder_for(Path(given["model"])).backbone.model

        def embed(prompts: list[dict[str, list[int]]], *, use_tqdm: bool = True) -> list[Any]:
            assert use_tqdm is False
            self.fail()
            ids = [one["prompt_token_ids"] for one in prompts]
            assert all(set(one) == {"prompt_token_ids"} for one in prompts)
            assert max(map(len, ids)) <= given["max_model_len"]
            self.asked.append(ids)
            return self.change([self._answer(model, row) for row in ids])

        return SimpleNamespace(embed=embed)

    @torch.inference_mode()
    def _answer(self, model: Any, ids: list[int]) -> Any:
        states = decoder(model)(input_ids=torch.tensor([ids])).last_hidden_state[0]
        pooled = states[-1] if self.pooling == "last" else states[:2].mean(dim=0)
        vector = torch.nn.functional.normalize(pooled, dim=0).tolist()
        return SimpleNamespace(prompt_token_ids=ids, outputs=SimpleNamespace(embedding=vector))


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setitem(sys.modules, "vllm", made.module())
    return made


@pytest.fixture
def ours(llama_folder: Path, tmp_path: Path) -> Encoder:
    encoder = encoder_for(llama_folder, None, EncoderSettings(servable=True, passage_max_tokens=24))
    encoder.save(tmp_path / "model")
    return encoder_for(tmp_path / "model")


@pytest.fixture
def folder(ours: Encoder, tmp_path: Path) -> Path:
    return tmp_path / "model"


def opened(folder: Path, dtype: str = "auto", device: str = "auto") -> VllmEncoder:
    return VllmEncoder(
        ModelSpec.of_source(resolve_model(str(folder))),
        ModelSettings.model_validate({"dtype": dtype, "device": device}),
    )


def test_vllm_is_asked_for_the_tokens_of_the_contract(vllm: StandIn, ours: Encoder, folder: Path) -> None:
    encoder = opened(folder)
    ids, texts = ours.contract.ids, ["A llama.", "Wool " * 40, ""]
    most = 24 + len(ids.before("self")) + len(ids.after("self"))
    assert vllm.started == [{"model": str(folder), "runner": "pooling", "dtype": "float32", "max_model_len": most}]
    vllm.asked.clear()
    found = encoder.encode_passages([Passage(str(row), text) for row, text in enumerate(texts)])
    plain = ours.backbone.tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert vllm.asked == [[[*ids.before("self"), *row[:24], *ids.after("self")] for row in plain]]
    np.testing.assert_allclose(found, ours.encode_passages(texts), atol=1e-6)
    assert found.dtype == np.float32
    assert (encoder.contract_hash, encoder.dimension) == (ours.contract_hash, ours.dimension)
    assert encoder.count_cut([Passage("a", texts[0]), Passage("b", texts[1])]) == 1


def test_known_vectors_are_not_asked_for_again(vllm: StandIn, folder: Path) -> None:
    encoder = opened(folder)
    vllm.asked.clear()
    passages = [Passage(str(row), f"Text {row}.") for row in range(1000)]
    skip = np.zeros(1000, dtype=np.bool_)
    skip[100:900] = True
    rows = [row for part, _ in encoder.passage_batches(passages, skip) for row in part]
    assert rows == [*range(100), *range(900, 1000)]
    assert [len(part) for part in vllm.asked] == [200]
    assert [len(part) for part, _ in encoder.passage_batches(passages)] == [512, 488]


def test_the_store_is_that_of_the_plain_command_and_resumes(
    vllm: StandIn, command_line: CommandLine, folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    plain = ("encode", folder, corpus_file, "--shard-size", 10, "--dtype", "float32")
    assert command_line(*plain, "-o", tmp_path / "plain").code == 0

    def lose() -> None:
        if len(vllm.asked) == 2:  # golden texts, first shard
            raise RuntimeError("EngineCore died\nat some length")

    vllm.fail = lose
    line = command_line.refused(*plain, "-o", tmp_path / "store", "--engine", "vllm")
    assert "vLLM failed (EngineCore died at some length); run the same command again: finished shards are kept" in line
    vllm.fail = lambda: None
    vllm.asked.clear()
    done = command_line(*plain, "-o", tmp_path / "store", "--engine", "vllm")
    assert done.code == 0, done.err
    assert [len(part) for part in vllm.asked[1:]] == [10, 4]
    ours, theirs = VectorStore.open(tmp_path / "plain"), VectorStore.open(tmp_path / "store")
    assert list(ours.ids) == list(theirs.ids)
    assert (ours.source, ours.dtype, ours.contract_hash) == (theirs.source, theirs.dtype, theirs.contract_hash)
    np.testing.assert_allclose(theirs.vectors(range(24)), ours.vectors(range(24)), atol=1e-6)
    half = command_line(*plain, "-o", tmp_path / "half", "--engine", "vllm", "--half")
    assert half.code == 0, half.err
    assert VectorStore.open(tmp_path / "half").dtype == "float16"


def test_wrong_answers_are_refused(vllm: StandIn, folder: Path) -> None:
    encoder, passages = opened(folder), [Passage("a", "A llama."), Passage("b", "Two llamas.")]

    def longer(found: list[Any]) -> list[Any]:
        for one in found:
            one.outputs.embedding = [3 * number for number in one.outputs.embedding]
        return found

    def broken(found: list[Any]) -> list[Any]:
        found[1].outputs.embedding[0] = float("nan")
        return found

    for change, message in (
        (lambda found: found[::-1], "read other token ids"),
        (lambda found: found[:1], "read other token ids"),
        (longer, "a vector of length 3 instead of 1"),
        (broken, "a vector of length nan instead of 1"),
    ):
        vllm.change = change
        with pytest.raises(BackendError, match=message):
            encoder.encode_passages(passages)
    vllm.change, vllm.pooling = (lambda found: found), "mean"
    with pytest.raises(BackendError, match=r"gives other vectors than .* the cosine of golden text \d is"):
        opened(folder)


def test_what_vllm_cannot_do_is_one_line(
    vllm: StandIn, llama_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder_for(llama_folder, None, EncoderSettings(layers=2)).save(tmp_path / "layers")
    with pytest.raises(ContractError, match=r"is not servable.*: its vectors are the mean of 2 layers; .*train with"):
        opened(tmp_path / "layers")
    with pytest.raises(ContractError, match="it has no saved contract"):
        opened(llama_folder)
    with pytest.raises(ConfigError, match="vLLM chooses its device itself"):
        opened(folder, device="cpu")
    assert not vllm.started

    def refuse(**given: Any) -> None:
        raise ValueError("Bfloat16 is only supported on GPUs with compute capability of at least 8.0.\nSee …")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", refuse)
    with pytest.raises(
        BackendError, match=r"vLLM cannot load .*model \(Bfloat16 is only supported on GPUs.*\); its own messages"
    ):
        opened(folder, dtype="bfloat16")
    monkeypatch.delitem(sys.modules, "vllm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="run: pip install vllm"):
        opened(folder)
