"""A query table: looked-up queries search the passages of the model it was fitted to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from encoders import encoder_for

from llama2vec.errors import DataError, ModelError, OutputExistsError, StoreError
from llama2vec.model.source import QUERY_TABLE_FILE
from llama2vec.records import Query
from llama2vec.retrieve.search.query_table import ROWS_FILE, QueryTable, is_query_table, save_query_table
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.search.table_fitting import sample_spans


@pytest.fixture(scope="module")
def saved(llama_folder: Path, sentences: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the tiny model, fitted to the sentences' runs of words."""
    folder = tmp_path_factory.mktemp("table") / "table"
    texts = sample_spans(lambda: (("", sentence) for sentence in sentences), 200, 0)
    save_query_table(encoder_for(llama_folder), texts, folder)
    return folder


def test_looked_up_queries_are_unit_vectors_near_the_models(
    saved: Path, llama_folder: Path, sentences: list[str]
) -> None:
    table, encoder = QueryTable.load(saved), encoder_for(llama_folder)
    assert table.contract_hash == encoder.contract_hash
    texts = sample_spans(lambda: (("", sentence) for sentence in sentences), 40, 7)
    found, wanted = (
        table.encode_queries([Query(str(n), text) for n, text in enumerate(texts)]),
        encoder.encode_queries(texts),
    )
    assert (found.shape, found.dtype) == (wanted.shape, np.float32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    cosines = (found * wanted).sum(axis=1)
    shuffled = (found * np.roll(wanted, 1, axis=0)).sum(axis=1)
    assert cosines.mean() > 0.9 > shuffled.mean()
    assert abs(cosines.mean() - table.facts["cosine"]) < 0.1
    np.testing.assert_array_equal(table.encode_queries(texts[0]), found[0])


def test_an_empty_query_has_a_vector_and_half_a_surrogate_is_refused(saved: Path) -> None:
    table = QueryTable.load(saved)
    assert np.linalg.norm(table.encode_queries("")) == pytest.approx(1, abs=1e-5)
    with pytest.raises(DataError, match="half of a surrogate pair at character 2"):
        table.encode_queries("a\ud800")


def test_a_table_searches_its_models_passages_and_no_others(
    saved: Path, llama_folder: Path, sentences: list[str], tmp_path: Path
) -> None:
    encoder = encoder_for(llama_folder)
    Retriever.from_texts(sentences[:20], encoder, tmp_path / "ours")
    retriever = Retriever.open(tmp_path / "ours" / "index", saved)
    assert len(retriever.hits(sentences[3], "dense", 5)) == 5
    assert retriever.hits(sentences[3], "hybrid", 1)[0].passage.text == sentences[3]
    short = encoder.contract.encoder.model_copy(update={"passage_max_tokens": 5})
    Retriever.from_texts(sentences[:20], encoder_for(llama_folder, settings=short), tmp_path / "theirs")
    with pytest.raises(StoreError, match="search with the model that encoded it"):
        Retriever.open(tmp_path / "theirs" / "index", saved).hits("a", "dense", 1)


def test_a_table_opens_without_torch(saved: Path) -> None:
    code = (
        "import sys; from llama2vec.retrieve.search.query_table import QueryTable; "
        f"QueryTable.load({str(saved)!r}).encode_queries('llama'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("name", [ROWS_FILE, QUERY_TABLE_FILE])
def test_a_damaged_table_is_refused(saved: Path, tmp_path: Path, name: str) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match="missing or damaged"):
        QueryTable.load(tmp_path)


def test_other_texts_do_not_replace_a_table_and_few_make_none(saved: Path, llama_folder: Path, tmp_path: Path) -> None:
    encoder = encoder_for(llama_folder)
    with pytest.raises(OutputExistsError):
        save_query_table(encoder, [f"text {n}" for n in range(30)], saved)
    with pytest.raises(ModelError, match="3 different sample queries are too few"):
        save_query_table(encoder, ["a", "b", "c", "c"], tmp_path / "few")
    assert not is_query_table(tmp_path / "few")


def test_queries_that_a_table_cuts_are_counted(saved: Path) -> None:
    table = QueryTable.load(saved)
    most = table.facts["max_tokens"]
    texts = ["", "a river", "river " * (most + 1), "9" * (most + 1), "9" * most, "é" * most]
    whole = table.tokenizer.from_str(table.tokenizer.to_str())
    whole.no_truncation()
    lengths = [len(found.ids) for found in whole.encode_batch(texts, add_special_tokens=False)]
    cut = table.cut_queries([Query(str(place), text) for place, text in enumerate(texts)])
    assert cut == (sum(length > most for length in lengths), most, True)
    assert cut.texts > 1
