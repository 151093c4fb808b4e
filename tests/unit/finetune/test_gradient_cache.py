"""The gradient cache gives the gradients of the whole batch, whatever is held in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llama2vec.config import EncoderSettings
from llama2vec.finetune.batches import DrawnExamples
from llama2vec.finetune.contrastive_loss import cosines, info_nce_loss
from llama2vec.finetune.gradient_cache import GradientCache
from llama2vec.finetune.settings import ContrastiveSettings
from llama2vec.model.backbone import decoder
from llama2vec.model.batching import PromptedBatch, padded_batches
from llama2vec.records import TrainingExample

KINDS = {"full": {"rank": 0}, "lora": {"rank": 4}, "lora with dropout": {"rank": 4, "dropout": 0.3}}


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: part.grad for name, part in model.named_parameters() if part.requires_grad and part.grad is not None}


def step(
    made: tuple[Any, Any], examples: list[TrainingExample], seed: int = 0
) -> tuple[float, dict[str, torch.Tensor]]:
    model, objective = made
    drawn = DrawnExamples(examples, None, objective.settings, 0)
    torch.manual_seed(seed)
    loss, _ = objective.loss(model, objective.collate([drawn[row] for row in range(len(drawn))]))
    loss.backward()
    return loss.item(), gradients(model)


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    assert found
    largest = max(float(part.abs().max()) for part in expected.values())
    assert largest > 1e-3
    for name, part in expected.items():
        torch.testing.assert_close(found[name], part, rtol=0, atol=tolerance * max(1.0, largest), msg=name)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_gradients_equal_those_of_one_pass_over_the_whole_batch(
    kind: str, make_objective: Callable[..., Any], examples: list[TrainingExample]
) -> None:
    loss, found = step(make_objective(**KINDS[kind], micro_batch_tokens=64), examples)
    model, objective = make_objective(**KINDS[kind])
    drawn = DrawnExamples(examples, None, objective.settings, 0)
    rows = [drawn[row] for row in range(len(drawn))]
    # The plain way: one padded batch, one forward, one backward, and no code of the cache.
    tokenizer, ids = objective.encoder.backbone.tokenizer, objective.encoder.contract.ids

    def embed(texts: list[str], prompt: Any) -> torch.Tensor:
        out = []
        for text in texts:
            tokens = ids.wrap(tokenizer(text, add_special_tokens=False)["input_ids"], prompt, 60)
            out.append(decoder(model)(input_ids=torch.tensor([tokens]), use_cache=False).last_hidden_state[0, -1])
        return torch.stack(out)

    passages = [text for row in rows for text in row.passages]
    starts = torch.tensor([0, *(len(row.passages) for row in rows)]).cumsum(0)[:-1]
    scores = cosines(embed([row.query for row in rows], "next"), embed(passages, "self")) / 0.1
    plain = info_nce_loss(scores, starts[:, None], torch.zeros_like(scores, dtype=torch.bool))
    plain.backward()
    assert loss == pytest.approx(plain.item(), rel=1e-5)
    close(found, gradients(model))


def test_gradients_of_a_longrope_model_do_not_depend_on_the_size_of_a_pass(
    make_objective: Callable[..., Any], longrope_folder: Path
) -> None:
    rows = [TrainingExample(f"river {row}", (f"castle {row} " * (1 + 5 * (row % 3)),)) for row in range(6)]
    (first, alone), (second, together) = (
        step(make_objective(folder=longrope_folder, micro_batch_tokens=most), rows) for most in (1, 100_000)
    )
    assert first == pytest.approx(second, rel=1e-5)
    close(together, alone, tolerance=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_bit_for_bit_however_many_graphs_are_held(
    kind: str, make_objective: Callable[..., Any], examples: list[TrainingExample]
) -> None:
    results = [
        step(make_objective(**KINDS[kind], micro_batch_tokens=64, graph_tokens=held), examples[:9])
        for held in (1, 400, 100_000)
    ]
    for loss, found in results[1:]:
        assert loss == results[0][0]
        close(found, results[0][1])
        assert all(torch.equal(part, results[0][1][name]) for name, part in found.items())


def test_dropout_really_drops(make_objective: Callable[..., Any], examples: list[TrainingExample]) -> None:
    made = {seed: step(make_objective(**KINDS["lora with dropout"]), examples[:4], seed)[0] for seed in (0, 1)}
    assert made[0] != made[1]


def test_random_numbers_go_on_as_if_every_text_had_been_read_once(
    make_objective: Callable[..., Any], examples: list[TrainingExample]
) -> None:
    after = []
    for held in (1, 100_000):
        step(make_objective(**KINDS["lora with dropout"], micro_batch_tokens=64, graph_tokens=held), examples[:9])
        after.append(torch.rand(3))
    assert torch.equal(after[0], after[1])


def read(held: int, sequences: list[list[int]], micro_batch: int = 12) -> tuple[int, torch.nn.Embedding]:
    """Read sequences with a graph of so many cells at most; return the cells that were read, and the weights."""
    cells, table = 0, torch.nn.Embedding(50, 3)
    with torch.no_grad():
        table.weight.copy_(torch.arange(150.0).view(50, 3))

    def embed(batch: PromptedBatch) -> torch.Tensor:
        nonlocal cells
        cells += batch.input_ids.numel()
        return table(batch.input_ids).sum(dim=1)

    cache = GradientCache(embed, torch.device("cpu"), held)
    vectors = cache.represent(list(padded_batches(sequences, micro_batch, pad_id=0)))
    cache.backpropagate(torch.ones_like(vectors))
    return cells, table


def test_a_batch_that_fits_is_read_once_and_of_a_larger_one_only_what_does_not_fit_is_read_again() -> None:
    sequences = [[number, number + 1, number + 2, number + 3] for number in range(12)]  # 4 micro-batches of 12 cells
    counts = {held: read(held, sequences)[0] for held in (48, 1000, 24, 13, 12, 1)}
    assert counts == {48: 48, 1000: 48, 24: 72, 13: 84, 12: 84, 1: 84}
    tables = [read(held, sequences)[1].weight.grad for held in (1, 24, 48)]
    assert all(table is not None and torch.equal(table, tables[0]) for table in tables)


def test_vectors_come_back_in_the_order_of_the_texts() -> None:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (20,), generator=draw).tolist()
    table = torch.eye(20)
    cache = GradientCache(lambda batch: table[batch.input_ids[:, 0]], torch.device("cpu"), 30)
    texts = [[row] * length for row, length in enumerate(lengths)]
    torch.testing.assert_close(cache_vectors(cache, texts), table)


def cache_vectors(cache: GradientCache, texts: list[list[int]]) -> torch.Tensor:
    return cache.represent(list(padded_batches(texts, 10, pad_id=0))).detach()


def test_a_text_that_stands_several_times_is_read_once(make_objective: Callable[..., Any]) -> None:
    _, objective = make_objective()
    rows = [
        TrainingExample(f"river {row}", (f"stone {row}",), ("the same negative",), query_id=str(row))
        for row in range(4)
    ]
    drawn = DrawnExamples(rows, None, objective.settings, 0)
    batch = objective.collate([drawn[row] for row in range(4)])["batch"]
    assert len(batch.sequences) == 4 + 4 + 1
    assert len(batch.passage_rows) == 8


@pytest.mark.parametrize("prompts", [("self", "self"), ("self", "next"), ("next", "self"), ("next", "next")])
@pytest.mark.parametrize("pooling", ["slots", "mean"])
def test_training_vectors_are_those_of_the_encoder(
    prompts: tuple[Any, Any], pooling: Any, make_objective: Callable[..., Any], examples: list[TrainingExample]
) -> None:
    settings = EncoderSettings(
        query_prompt=prompts[0], passage_prompt=prompts[1], pooling=pooling, query_max_tokens=9, passage_max_tokens=13
    )
    model, objective = make_objective(encoder=settings, micro_batch_tokens=100)
    model.eval()
    drawn = DrawnExamples(examples, None, ContrastiveSettings(), 0)
    rows = [drawn[row] for row in range(6)]
    batch = objective.collate(rows)["batch"]
    cache = GradientCache(lambda part: objective._embed(model, part), torch.device("cpu"), 1)
    vectors = cache.represent(list(padded_batches(batch.sequences, 100, pad_id=2)))
    found = torch.nn.functional.normalize(vectors, dim=1).detach()
    queries = objective.encoder.encode_queries([row.query for row in rows])
    passages = objective.encoder.encode_passages([text for row in rows for text in row.passages])
    torch.testing.assert_close(found[batch.query_rows], torch.from_numpy(queries), rtol=0, atol=1e-5)
    torch.testing.assert_close(found[batch.passage_rows], torch.from_numpy(passages), rtol=0, atol=1e-5)
