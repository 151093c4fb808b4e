"""EBAE beside the contrastive loss: its gradients by plain means, what takes part, and what it is refused for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llama2vec.config import EncoderSettings, PromptSettings, load_config
from llama2vec.errors import ConfigError, EmptyTargetsError, Llama2VecError, ModelError
from llama2vec.finetune.batches import DrawnExamples
from llama2vec.finetune.ebae import Ebae
from llama2vec.finetune.settings import FinetuneConfig, PretextSettings
from llama2vec.finetune.stage import finetune_model
from llama2vec.model.backbone import decoder, load_backbone
from llama2vec.model.encoder import Encoder
from llama2vec.records import TrainingExample
from llama2vec.training.state import read_log

WEIGHT = 0.5
SELF_BOTH = EncoderSettings(
    query_prompt="self", passage_prompt="self", query_max_tokens=40, passage_max_tokens=60, layers=2
)
LIMITS = {"query": 40, "passage": 60}


def step(made: tuple[Any, Any], examples: list[TrainingExample]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the losses and gradients of one batch."""
    model, objective = made
    drawn = DrawnExamples(examples, None, objective.settings, 0)
    if objective.ebae is not None:
        objective.ebae.prepare(drawn)
    loss, parts = objective.loss(model, objective.collate([drawn[row] for row in range(len(drawn))]))
    loss.backward()
    found = {name: part.grad for name, part in model.named_parameters() if part.requires_grad and part.grad is not None}
    return {"loss": loss.item(), **parts}, found


def content(tokenizer: Any, text: str) -> list[int]:
    """The distinct tokens of a text, by the words that the tiny tokenizer cuts it into."""
    return sorted(set(tokenizer(text, add_special_tokens=False)["input_ids"]))


@pytest.mark.parametrize("slots", [0, 2])
@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("most", [48, 100_000])
def test_loss_and_gradients_equal_those_of_each_text_by_itself(
    slots: int, rank: int, most: int, make_objective: Callable[..., Any], examples: list[TrainingExample]
) -> None:
    prompts = PromptSettings(slots=slots, self_prompt=" same: ", next_prompt=" next: ")
    common = {"rank": rank, "encoder": SELF_BOTH, "prompts": prompts, "micro_batch_tokens": most, "graph_tokens": most}
    _, contrastive = step(make_objective(**common), examples)
    settings = PretextSettings(weight=WEIGHT, stop_words="none", token_weights="uniform")
    made = make_objective(**common, pretext=settings)
    losses, found = step(made, examples)

    model, objective = made
    model.zero_grad()
    ids, tokenizer = objective.encoder.contract.ids, objective.encoder.backbone.tokenizer
    rows = DrawnExamples(examples, None, objective.settings, 0)
    drawn = [rows[row] for row in range(len(rows))]
    texts = [one.query for one in drawn] + [text for one in drawn for text in one.passages]
    head, values = model.get_output_embeddings().weight.detach(), []
    for text in texts:
        row = ids.wrap(tokenizer(text, add_special_tokens=False)["input_ids"], "self", 60)
        state = decoder(model)(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0, -ids.slots :]
        probabilities = (state @ head.T).max(dim=0).values.log_softmax(dim=0)
        values.append(-probabilities[content(tokenizer, text)].mean())
    plain = torch.stack(values).mean()
    (WEIGHT * plain).backward()

    assert losses["loss_self"] == pytest.approx(plain.item(), rel=1e-5)
    assert losses["loss"] == pytest.approx(losses["loss_contrastive"] + WEIGHT * losses["loss_self"], rel=1e-5)
    expected = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
    assert max(float(part.abs().max()) for part in expected.values()) > 1e-3
    for name, part in expected.items():
        rounding = 5e-6 * max(1.0, float(contrastive[name].abs().max()))
        torch.testing.assert_close(found[name] - contrastive[name], part, rtol=0, atol=rounding, msg=name)


def test_chunks_of_logits_change_no_gradient(
    make_objective: Callable[..., Any], examples: list[TrainingExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PretextSettings(weight=WEIGHT)
    losses, whole = step(make_objective(encoder=SELF_BOTH, pretext=settings), examples)
    monkeypatch.setattr("llama2vec.finetune.ebae._MOST_LOGITS", 1)
    pieces, found = step(make_objective(encoder=SELF_BOTH, pretext=settings), examples)
    assert pieces == pytest.approx(losses, rel=1e-5)
    for name, part in whole.items():
        torch.testing.assert_close(found[name], part, rtol=0, atol=1e-6, msg=name)


def test_only_the_side_that_self_follows_predicts_and_rare_tokens_weigh_more(
    make_objective: Callable[..., Any], examples: list[TrainingExample]
) -> None:
    _, objective = make_objective(pretext=PretextSettings(weight=WEIGHT))  # NEXT for queries
    ebae = objective.ebae
    assert ebae.bags(["river 1", "stone 2"], "query") == [(), ()]
    tokenizer = objective.encoder.backbone.tokenizer
    (bag,), (article,) = ebae.bags(["the river"], "passage"), ebae.bags(["the"], "passage")
    assert bag
    assert article == ()  # A stop word
    assert set(bag) <= set(tokenizer(" river", add_special_tokens=False)["input_ids"])
    ebae.prepare(DrawnExamples(examples, None, objective.settings, 0))
    texts = {text for one in examples for text in (*one.positives, *one.negatives)}
    weights = ebae._token_weights
    assert weights is not None
    common, rare = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" river", " unseen"))
    assert len(weights) == objective.encoder.backbone.model.get_output_embeddings().weight.shape[0]
    assert texts
    assert float(weights[rare]) >= float(weights[common])


def test_a_cut_text_predicts_what_is_read_of_it(make_objective: Callable[..., Any]) -> None:
    _, objective = make_objective(pretext=PretextSettings(weight=WEIGHT))
    encoder = objective.encoder
    ebae = Ebae(encoder, PretextSettings(weight=1, stop_words="none"), {"query": 2, "passage": 3})
    text = "river castle stone bridge winter"
    read = encoder.backbone.tokenizer(text, add_special_tokens=False)["input_ids"][:3]
    assert sorted(ebae.bags([text], "passage")[0]) == sorted(set(read))


@pytest.mark.parametrize("guide", ["self", "start"])
def test_a_guide_judges_by_the_vectors_alone(
    guide: str, make_objective: Callable[..., Any], examples: list[TrainingExample]
) -> None:
    settings: dict[str, Any] = {"false_negatives": guide, "false_negative_margin": -0.1, "encoder": SELF_BOTH}
    without, _ = step(make_objective(**settings), examples)
    beside, _ = step(make_objective(**settings, pretext=PretextSettings(weight=WEIGHT)), examples)
    assert beside["false_negatives"] == without["false_negatives"]
    assert beside["loss_contrastive"] == pytest.approx(without["loss"], rel=1e-6)


def config(model: Path, *more: str) -> FinetuneConfig:
    return load_config(
        FinetuneConfig,
        None,
        [
            f"model.name={model}", "model.dtype=float32", "model.device=cpu", "model.lora.rank=0",
            "encoder.query_max_tokens=16", "encoder.passage_max_tokens=24", "optimizer.steps=24",
            "optimizer.batch_size=8", "optimizer.log_every=1", "optimizer.learning_rate=3e-3", "validation.share=0",
            "validation.keep_best=false", *more,
        ],
    )  # fmt: skip


def test_training_learns_the_words_and_the_log_says_how_well(
    llama_folder: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    last = {}
    for weight in (1e-9, 5):
        output = tmp_path / str(weight)
        finetune_model(config(llama_folder, f"pretext.weight={weight}"), output, examples=examples)
        lines = [line for line in read_log(output / "log.jsonl") if "loss_self" in line]
        first, last[weight] = lines[0], lines[-1]["loss_self"]
        assert first["loss"] == pytest.approx(first["loss_contrastive"] + weight * first["loss_self"], rel=1e-4)
    assert last[5] < 0.98 * last[1e-9]
    assert '"pretext"' in (tmp_path / "5" / "finetune.json").read_text(encoding="utf-8")


def test_the_plan_of_a_training_without_it_stays_as_it_was(
    llama_folder: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    finetune_model(config(llama_folder, "optimizer.steps=1"), tmp_path / "out", examples=examples)
    assert '"pretext"' not in (tmp_path / "out" / "finetune.json").read_text(encoding="utf-8")


def test_a_list_of_stop_words_that_changes_is_another_training(
    llama_folder: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("river\n", encoding="utf-8")
    made = config(llama_folder, "pretext.weight=1", f"pretext.stop_words={tmp_path / 'words.txt'}")
    before = made.deciding()
    (tmp_path / "words.txt").write_text("castle\n", encoding="utf-8")
    assert before != made.deciding()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (["pretext.weight=1", "encoder.pooling=mean"], ConfigError, "encoder.pooling is mean: set it to 0"),
        (["pretext.weight=1", "encoder.passage_prompt=next"], ConfigError, "needs SELF on one side"),
        (["pretext.weight=1", "pretext.stop_words=absent.txt"], ConfigError, "pretext.stop_words: absent.txt is"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    settings: list[str], error: type[Llama2VecError], message: str, llama_folder: Path,
    examples: list[TrainingExample], tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(error, match=message) as caught:
        finetune_model(config(llama_folder, *settings), tmp_path / "out", examples=examples)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["pretext.language=de"], "pretext.weight is 0, so the other settings of pretext do nothing"),
        (["pretext={weight = 1, language = 'de', stop_words = 'nltk'}"], "stop_words = nltk is an English list"),
        (["pretext.weight=-1"], "pretext.weight"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, None, settings)


def test_texts_of_stop_words_alone_have_nothing_to_predict(make_objective: Callable[..., Any]) -> None:
    _, objective = make_objective(pretext=PretextSettings(weight=WEIGHT))
    rows = [TrainingExample("who", ("the of and",), ()) for _ in range(3)]
    with pytest.raises(EmptyTargetsError, match=r"pretext\.stop_words=none"):
        objective.ebae.prepare(DrawnExamples(rows, None, objective.settings, 0))


def test_a_batch_without_targets_counts_nothing(make_objective: Callable[..., Any]) -> None:
    made = make_objective(pretext=PretextSettings(weight=WEIGHT, token_weights="uniform"))
    rows = [TrainingExample(f"who {row}", ("the of and " * (row + 1),), ()) for row in range(3)]
    model, objective = made
    drawn = DrawnExamples(rows, None, objective.settings, 0)
    loss, parts = objective.loss(model, objective.collate([drawn[row] for row in range(3)]))
    assert parts["loss_self"] == 0
    assert loss.item() == pytest.approx(parts["loss_contrastive"], rel=1e-6)


def test_a_head_that_does_more_than_a_product_is_refused(llama_folder: Path) -> None:
    encoder = Encoder.from_backbone(load_backbone(config(llama_folder).model))
    head = encoder.backbone.model.get_output_embeddings()
    head.register_forward_hook(lambda _module, _inputs, output: output.tanh())
    with pytest.raises(ModelError, match="does more than a product"):
        Ebae(encoder, PretextSettings(weight=1), LIMITS)
