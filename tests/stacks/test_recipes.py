"""The recipes of examples/stacks on a tiny random model, each in a process of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import faiss
import numpy as np
import pytest

from llama2vec.config import ModelSettings
from llama2vec.model.encoder import Encoder
from llama2vec.model.publish.exporting import export_encoder
from llama2vec.records import Passage
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.writer import write_store

Recipe = Callable[..., CompletedProcess[str]]
IDS = ["llama", "alpaca", "faiss", "bridge", "gare"]


def hits(finished: CompletedProcess[str]) -> list[tuple[float, str]]:
    return [(float(score), name) for score, name in re.findall(r"^(-?\d\.\d{3})  (\S+)", finished.stdout, re.MULTILINE)]


def assert_found(finished: CompletedProcess[str], known: list[str] = IDS) -> None:
    """Three hits, best first, and vectors within 1e-5 of the encoder's on both sides."""
    assert finished.returncode == 0, finished.stderr
    found = hits(finished)
    assert len(found) == 3
    assert {name for _, name in found} <= set(known)
    assert sorted(found, key=lambda hit: -hit[0]) == found
    gaps = dict(re.findall(r"largest difference from the encoder, (\w+): (\S+)", finished.stdout))
    assert set(gaps) == {"query", "passages"}
    assert max(map(float, gaps.values())) <= 1e-5


def assert_refused(finished: CompletedProcess[str], side: str) -> None:
    assert finished.returncode == 1
    assert f"these are not the encoder's vectors: {side} differ by" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_faiss_file_holds_the_vectors_and_beside_it_the_ids(recipe: Recipe, model: Path, tmp_path: Path) -> None:
    assert_found(recipe("faiss_file.py", model, "--output", "vectors.faiss"))
    index = faiss.read_index(str(tmp_path / "vectors.faiss"))
    assert json.loads((tmp_path / "vectors.faiss.ids.json").read_text()) == IDS
    store = VectorStore.open(tmp_path / "vectors.faiss.store")
    assert np.array_equal(index.reconstruct_n(0, 5), store.vectors(range(5)))


def test_a_store_of_another_model_does_not_become_a_faiss_file(
    recipe: Recipe, model: Path, other_model: Path, tmp_path: Path
) -> None:
    passages = [Passage("1", "a river"), Passage("2", "a stone bridge"), Passage("3", "winter")]
    encoder = Encoder.load(model, settings=ModelSettings(dtype="float32", device="cpu"))
    write_store(lambda: passages, encoder, tmp_path / "store", source={}, shard_size=2)
    finished = recipe("faiss_file.py", model, "--store", tmp_path / "store", "--dtype", "float32")
    assert_found(finished, ["1", "2", "3"])
    (tmp_path / "vectors.faiss").unlink()
    finished = recipe("faiss_file.py", other_model, "--store", tmp_path / "store")
    assert finished.returncode == 1
    assert "was made by another model" in finished.stderr
    assert not (tmp_path / "vectors.faiss").exists()


def test_milvus_lite_finds_passages_and_a_second_run_adds_none(
    recipe: Recipe, model: Path, corpus_file: Path, corpus_rows: list[dict[str, str]]
) -> None:
    for _ in range(2):
        finished = recipe("milvus.py", model, "--uri", "passages.db", "--corpus", corpus_file)
        assert_found(finished, [row["_id"] for row in corpus_rows])
        assert re.search(r"^24 passages in passages_[0-9a-f]{12} at passages.db", finished.stdout, re.MULTILINE)


def test_langchain_gives_the_encoder_s_vectors(recipe: Recipe, model: Path) -> None:
    assert_found(recipe("langchain_search.py", model))


def test_langchain_s_own_class_gives_the_encoder_s_vectors_where_no_text_has_a_line_break(
    recipe: Recipe, model: Path, corpus_file: Path, corpus_rows: list[dict[str, str]]
) -> None:
    finished = recipe("langchain_search.py", model, "--huggingface", "--corpus", corpus_file)
    assert_found(finished, [row["_id"] for row in corpus_rows])
    # docs/stacks.md says so; where LangChain leaves texts alone one day, it can be said otherwise.
    assert_refused(recipe("langchain_search.py", model, "--huggingface"), "passages")


def test_a_question_that_langchain_embeds_as_a_passage_is_refused(
    recipe: Recipe, model: Path, corpus_file: Path
) -> None:
    forgotten = {'query_encode_kwargs={"prompt_name": "query"},': ""}
    finished = recipe("langchain_search.py", model, "--huggingface", "--corpus", corpus_file, change=forgotten)
    assert_refused(finished, "query")


def test_llamaindex_gives_the_encoder_s_vectors(recipe: Recipe, model: Path) -> None:
    assert_found(recipe("llamaindex_search.py", model))


def test_a_question_that_llamaindex_embeds_as_a_passage_is_refused(recipe: Recipe, model: Path) -> None:
    forgotten = {'query_instruction=settings["prompts"]["query"],': ""}
    assert_refused(recipe("llamaindex_search.py", model, change=forgotten), "query")


def test_an_exported_graph_and_its_tokenizers_give_the_encoder_s_vectors(
    recipe: Recipe, model: Path, corpus_file: Path, corpus_rows: list[dict[str, str]], tmp_path: Path
) -> None:
    export_encoder(model, tmp_path / "onnx")
    assert_found(recipe("onnx_search.py", model))
    assert_found(recipe("onnx_search.py", model, "--corpus", corpus_file), [row["_id"] for row in corpus_rows])
    assert_refused(recipe("onnx_search.py", model, change={"if own.is_file()": "if False"}), "query")


def test_openai_s_client_gets_the_encoder_s_vectors(recipe: Recipe, model: Path, served: str) -> None:
    assert_found(recipe("openai_client.py", model, "--url", f"{served}/v1"))


def test_vectors_of_another_served_model_are_refused(recipe: Recipe, other_model: Path, served: str) -> None:
    assert_refused(recipe("openai_client.py", other_model, "--url", f"{served}/v1"), "query")


@pytest.mark.parametrize("given", [[[0.1, 0.2]], [[float("nan")] * 32]], ids=["another width", "not a number"])
def test_vectors_that_cannot_be_compared_are_refused(
    given: list[list[float]], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent.parent / "examples" / "stacks"))
    from reference import hold_against, load_encoder

    encoder = load_encoder(str(model))
    asked = encoder.encode_queries(["river"])[0]
    hold_against(encoder, 1e-5, "river", asked, ["stone"], encoder.encode_passages(["stone"]))
    with pytest.raises(SystemExit, match="not the encoder's vectors: passages"):
        hold_against(encoder, 1e-5, "river", asked, ["stone"], given)
