"""The training of adaptation: what it learns, resumes and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.fidelity.architectures import save_tiny
from llama2vec.adapt.settings import AdaptConfig
from llama2vec.adapt.stage import adapt_model
from llama2vec.adapt.train import PretextObjective, _prepare
from llama2vec.config import ModelSettings, load_config
from llama2vec.errors import ConfigError, ContractError, DataError, EmptyTargetsError, Llama2VecError, ModelError
from llama2vec.finetune.train import _load_backbone
from llama2vec.model.encoder import Encoder
from llama2vec.model.golden import read_golden
from llama2vec.records import AdaptationExample, Passage
from llama2vec.training.settings import OptimizerSettings
from llama2vec.verify.backends import open_backend
from llama2vec.verify.verification import verify

PASSAGES = [
    Passage(f"a-{number}", f"The {word} bridge crosses the cold river near the market.")
    for number, word in enumerate(["stone", "copper", "silver", "winter", "village", "castle", "cotton", "lantern"])
]
TEXTS = ["The castle stands above the river.", "Snow.", ""]


@pytest.mark.parametrize("word", ["羊", "sheep "])
def test_a_batch_holds_texts_of_one_length_whether_they_are_written_with_spaces_or_not(word: str) -> None:
    objective = cast("PretextObjective", SimpleNamespace())
    sizes = [1, 40] * 16
    examples = [AdaptationExample(word * size, "") for size in sizes]
    rows = list(PretextObjective.order(objective, examples, OptimizerSettings(batch_size=4)))
    batches = [{sizes[row] for row in rows[begin : begin + 4]} for begin in range(0, len(rows), 4)]
    assert all(len(batch) == 1 for batch in batches)


def test_limits_of_the_text_may_include_both_prompts(llama_folder: Path, tmp_path: Path) -> None:
    shared = [f'model.name="{llama_folder}"', "prompts=released", "text.count_prompts=true", "optimizer.batch_size=2"]
    config = load_config(AdaptConfig, None, [*shared, "text.max_tokens=20"])
    with pytest.raises(ConfigError, match=r"text\.max_tokens is 20 and prefix and prompts take \d+ of them; raise it"):
        adapt_model(config, tmp_path / "out", passages=PASSAGES)


def test_prompts_take_no_room_from_the_joined_words_of_the_targets(llama_folder: Path) -> None:
    """The authors' limit counts BOS and both prompts for T, and BOS alone for the words to predict."""
    text, around = " ".join(f"stone{number} river{number}" for number in range(200)), {}
    for count in ("true", "false"):
        overrides = [
            "objective.token_weights=uniform",
            "prompts=paper-v2",
            "objective.targets=words",
            "text.stop_words=none",
            "text.max_tokens=90",
        ]
        config = tiny_recipe(llama_folder, *overrides, f"text.count_prompts={count}")
        *_, objective, _ = _prepare(config, [AdaptationExample(text, text)])
        (found,) = objective.tokenize([text])
        around[count] = 90 - len(found.ids)
        tokenizer = objective.tokenize._tokenizer
        bos = len(tokenizer("")["input_ids"])
        assert bos == 1
        ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=300)["input_ids"]
        assert found.targets == tuple(dict.fromkeys(ids[: 90 - bos * (count == "true")]))
    assert around["false"] == 0
    assert around["true"] > 10


def tiny_recipe(folder: Path, *more: str) -> AdaptConfig:
    overrides = (
        f'model.name="{folder}"', "model.dtype=float32", "model.device=cpu", "model.lora.rank=2", "text.max_words=12",
        "text.held_out=0", "optimizer.steps=4", "optimizer.batch_size=2", "optimizer.save_every=1", "encoder.layers=2",
    )  # fmt: skip
    return load_config(AdaptConfig, None, [*overrides, *more])


@pytest.mark.parametrize("kind", ["mamba2", "qwen3_next", "bloom"])
def test_a_model_read_in_separate_sequences_resumes_bit_for_bit_and_checkpoints_its_gradients(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny(kind, tmp_path / "model")
    plain = adapt_model(tiny_recipe(folder), tmp_path / "plain", passages=PASSAGES)
    expected = plain.encode_queries(TEXTS)
    recompute = tiny_recipe(folder, "model.gradient_checkpointing=true")
    recomputed = adapt_model(recompute, tmp_path / "recomputed", passages=PASSAGES)
    np.testing.assert_allclose(recomputed.encode_queries(TEXTS), expected, atol=1e-5)

    loss, calls = PretextObjective.loss, [0]

    def interrupted(self: PretextObjective, *given: Any) -> Any:
        calls[0] += 1
        if calls[0] > 2:
            raise KeyboardInterrupt
        return loss(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(PretextObjective, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            adapt_model(tiny_recipe(folder), tmp_path / "resumed", passages=PASSAGES)
    resumed = adapt_model(tiny_recipe(folder), tmp_path / "resumed", passages=PASSAGES)
    np.testing.assert_array_equal(resumed.encode_queries(TEXTS), expected)


def test_joint_and_separate_sequences_train_the_same_encoder(llama_folder: Path, tmp_path: Path) -> None:
    vectors = [
        adapt_model(
            tiny_recipe(llama_folder, f"objective.sequences={sequences}"), tmp_path / sequences, passages=PASSAGES
        ).encode_queries(TEXTS)
        for sequences in ("joint", "separate")
    ]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-4)
    # The choice decides no result: a finished adaptation is not made again.
    config = tiny_recipe(llama_folder, "objective.sequences=separate")
    modified = (tmp_path / "joint" / "config.json").stat().st_mtime_ns
    adapt_model(config, tmp_path / "joint", passages=PASSAGES)
    assert (tmp_path / "joint" / "config.json").stat().st_mtime_ns == modified


@pytest.mark.parametrize(
    ("passages", "settings", "message"),
    [
        (
            [Passage(f"x{row}", "The stone bridge.") for row in range(8)],
            ["objective.self_weight=0"],
            "nothing to learn",
        ),
        ([Passage(f"x{row}", "The and of it, which is.") for row in range(8)], [], "no text has a token to predict"),
    ],
)
def test_a_corpus_that_teaches_nothing_is_refused(
    passages: list[Passage], settings: list[str], message: str, llama_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(EmptyTargetsError, match=message):
        adapt_model(tiny_recipe(llama_folder, *settings), tmp_path / "out", passages=passages)
    assert not (tmp_path / "out").exists()


def test_joint_sequences_that_a_model_cannot_read_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = save_tiny("mamba", tmp_path / "model")
    with pytest.raises(
        ModelError, match=r"layers of kind linear_attention cannot read a joint sequence; set objective"
    ):
        adapt_model(tiny_recipe(folder, "objective.sequences=joint"), tmp_path / "out", passages=PASSAGES)
    assert not (tmp_path / "out").exists()


def test_a_servable_adaptation_without_the_top_layer(
    llama_folder: Path, tmp_path: Path, corpus_rows: list[dict[str, str]]
) -> None:
    passages = [Passage(row["_id"], row["text"]) for row in corpus_rows]
    config = tiny_recipe(
        llama_folder, "encoder.servable=true", "encoder.layers=1", "encoder.drop_layers=1", "encoder.standardize=true"
    )
    encoder = adapt_model(config, tmp_path / "out", passages=passages)
    assert encoder.backbone.model.config.num_hidden_layers == 1
    assert encoder.backbone.model.config.llama2vec == {"dropped_layers": 1, "standardized": True}
    settings = encoder.contract.encoder
    assert (settings.servable, settings.layers, settings.query_max_tokens == settings.passage_max_tokens) == (
        True,
        1,
        True,
    )
    golden = read_golden(tmp_path / "out")
    for backend in ("llama2vec", "transformers", "sentence-transformers"):
        asked = open_backend(backend, tmp_path / "out", golden, dtype=golden.dtype, device="cpu")
        assert verify(tmp_path / "out", golden, asked, device="cpu").passed


def test_a_shorter_llm_is_adapted_and_can_be_adapted_again(
    llama_folder: Path, tmp_path: Path, corpus_rows: list[dict[str, str]]
) -> None:
    passages = [Passage(row["_id"], row["text"]) for row in corpus_rows]
    config = tiny_recipe(llama_folder, "model.layers=1", "encoder.layers=1")
    encoder = adapt_model(config, tmp_path / "out", passages=passages)
    again = adapt_model(config, tmp_path / "out", passages=passages)  # It is there.
    assert encoder.backbone.model.config.num_hidden_layers == again.backbone.model.config.num_hidden_layers == 1
    assert not hasattr(again.backbone.model.config, "llama2vec")
    np.testing.assert_allclose(again.encode_passages(TEXTS), encoder.encode_passages(TEXTS), rtol=0, atol=1e-6)
    adapt_model(tiny_recipe(tmp_path / "out", "encoder.layers=1"), tmp_path / "further", passages=passages)
    with pytest.raises(ContractError, match=r"was made with 1 layer, and model\.layers is 2; set it to 0"):
        Encoder.load(tmp_path / "out", settings=ModelSettings(layers=2))
    # Whatever the format of the weights, before they are read.
    four_bit = ModelSettings(name=str(tmp_path / "out"), layers=2, quantization="nf4")
    with pytest.raises(ConfigError, match=r"model\.layers is 2 and the model has 1 layer; lower it"):
        _load_backbone(four_bit)


def test_an_adaptation_that_keeps_layers_and_drops_others_is_found_finished(
    save_model: Callable[..., Path], tmp_path: Path, corpus_rows: list[dict[str, str]]
) -> None:
    passages = [Passage(row["_id"], row["text"]) for row in corpus_rows]
    llm = save_model(tmp_path / "llm", num_hidden_layers=3)
    config = tiny_recipe(llm, "model.layers=2", "encoder.drop_layers=1", "encoder.layers=1")
    encoder = adapt_model(config, tmp_path / "out", passages=passages)
    again = adapt_model(config, tmp_path / "out", passages=passages)
    assert encoder.backbone.model.config.num_hidden_layers == again.backbone.model.config.num_hidden_layers == 1
    np.testing.assert_allclose(again.encode_passages(TEXTS), encoder.encode_passages(TEXTS), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["prompts=released", "encoder.servable=true", "encoder.layers=1"],
            r"encoder\.servable is true, but .*the mean of 8 slots",
        ),
        (["encoder.standardize=true"], r"standardize scales the last layer, and layers is 2; set layers to 1"),
        (["encoder.drop_layers=2"], r"encoder\.drop_layers is 2 and the model has 2 layers; lower it"),
    ],
)
def test_what_the_saved_encoder_cannot_be_is_refused_before_the_training(
    settings: list[str], message: str, llama_folder: Path, tmp_path: Path, corpus_rows: list[dict[str, str]]
) -> None:
    passages = [Passage(row["_id"], row["text"]) for row in corpus_rows]
    with pytest.raises(Llama2VecError, match=message):
        adapt_model(tiny_recipe(llama_folder, *settings), tmp_path / "out", passages=passages)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("streaming", ["true", "false"])
def test_a_corpus_that_is_saved_while_it_is_read_is_not_learned_from(
    llama_folder: Path, tmp_path: Path, saved_meanwhile: Callable[[Path, str, str], None], streaming: str
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "1", "text": "The old river is wide."}\n', encoding="utf-8")
    saved_meanwhile(corpus, "old", "newer")
    chosen = [f"model.name={llama_folder}", f"text.corpus={corpus}", f"text.streaming={streaming}"]
    with pytest.raises(DataError, match=r"corpus\.jsonl changed while it was read"):
        adapt_model(load_config(AdaptConfig, None, chosen), tmp_path / "out")
    assert not (tmp_path / "out").exists()
