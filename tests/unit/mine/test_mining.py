"""From examples to mined examples, in memory and from file to file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from made_examples import OPEN, TopicEncoder, with_bm25, write_jsonl

from llama2vec.data.examples import reported
from llama2vec.data.examples.labeled import named_fingerprint, read_examples
from llama2vec.data.examples.reported import report_path
from llama2vec.errors import (
    ConfigError,
    DataError,
    EmptyCorpusError,
    InputChangedError,
    Llama2VecError,
    OutputExistsError,
    StoreError,
)
from llama2vec.files import file_sha256
from llama2vec.mine.candidates import Bm25Searcher
from llama2vec.mine.mining import MiningInputs, encode_together, mine, mine_to_file
from llama2vec.records import Passage, TrainingExample
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.store.reader import VectorStore


def test_a_query_with_too_few_negatives_is_kept_dropped_or_an_error(
    examples: list[TrainingExample], corpus: list[Passage], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*examples[:2], TrainingExample("zebra", ("unknown words",))]
    result = with_bm25(rows, corpus)
    assert [len(example.negatives) for example in result.examples] == [3, 3, 0]
    assert "1 of 3 queries got fewer than 3 negatives" in caplog.text
    assert result.report.to_dict()["short"]["examples"][0] == {"query": "zebra", "query_id": "", "got": 0}
    assert "1 got 0" in result.report.summary()
    dropped = with_bm25(rows, corpus, short="drop")
    assert [example.query_id for example in dropped.examples] == ["q0", "q1"]
    assert (dropped.report.queries, dropped.report.written, dropped.report.short) == (3, 2, 1)
    with pytest.raises(DataError, match="'zebra' got 0 of 3 negatives; widen the window"):
        with_bm25(rows, corpus, short="error")


def test_what_cannot_be_mined_is_refused(examples: list[TrainingExample], corpus: list[Passage]) -> None:
    with pytest.raises(ConfigError, match="nothing to mine with"):
        mine(examples, corpus, [])
    with pytest.raises(DataError, match="no examples"):
        with_bm25([], corpus)
    with pytest.raises(EmptyCorpusError, match="no passages"):
        with_bm25(examples, [])
    with pytest.raises(ConfigError, match="begins at rank 100 and the corpus has 72"):
        with_bm25(examples, corpus, first_rank=100, last_rank=200)
    with pytest.raises(StoreError, match="searches 72 passages and the corpus has 71"):
        mine(examples, corpus[1:], [Bm25Searcher(corpus)], OPEN)


def test_a_finished_output_is_left_alone_and_another_is_not_replaced(files: dict[str, Path]) -> None:
    inputs = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"]))
    report = mine_to_file(inputs, files["output"], OPEN)
    assert report is not None
    assert report.mined == 18
    before = files["output"].read_bytes()
    assert mine_to_file(inputs, files["output"], OPEN) is None
    other = OPEN.model_copy(update={"negatives": 2})
    with pytest.raises(OutputExistsError, match="negatives: 3 there, 2 now"):
        mine_to_file(inputs, files["output"], other)
    assert files["output"].read_bytes() == before
    assert mine_to_file(inputs, files["output"], other, overwrite=True) is not None
    assert [len(example.negatives) for example in read_examples(files["output"])] == [2] * 6
    files["output"].write_bytes(before)
    with pytest.raises(OutputExistsError, match="does not hold a file of mined examples"):
        mine_to_file(inputs, files["output"], other)
    assert sorted(path.name for path in files["output"].parent.iterdir()) == ["mined.jsonl", "mined.jsonl.report.json"]


def test_the_examples_of_a_beir_folder_are_mined_from_its_corpus(
    tmp_path: Path, corpus: list[Passage], examples: list[TrainingExample]
) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", corpus)
    write_jsonl(tmp_path / "queries.jsonl", [Passage(example.query_id, example.query) for example in examples])
    (tmp_path / "qrels").mkdir()
    lines = [f"{example.query_id}\t{example.positive_ids[0]}\t1\n" for example in examples]
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
    with pytest.raises(OutputExistsError, match="lies inside the input"):
        mine_to_file(MiningInputs(str(tmp_path)), tmp_path / "mined.jsonl.gz", OPEN)
    output = tmp_path.with_name(f"{tmp_path.name}-mined") / "mined.jsonl.gz"
    mine_to_file(MiningInputs(str(tmp_path)), output, OPEN)
    assert list(read_examples(output)) == with_bm25(examples, corpus).examples
    report = json.loads(report_path(output).read_text(encoding="utf-8"))
    assert (report["stage"], report["results"]["passages"]) == ("mine", 72)
    assert report["results"]["removed"]["known_positive"]["candidates"] == 6


@pytest.mark.parametrize("step", ["finish", "report"])
def test_a_replacement_killed_between_examples_and_report_ends_with_the_next_call(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    inputs, output = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"])), files["output"]
    other = OPEN.model_copy(update={"negatives": 2})
    mine_to_file(inputs, output, OPEN)
    old = output.read_bytes(), report_path(output).read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reported, "_removed_on_failure", lambda path: nullcontext())  # a killed process tidies nothing
    if step == "finish":
        monkeypatch.setattr("llama2vec.artifact.Work.finish", killed)
    else:
        monkeypatch.setattr(reported, "settle_report", killed)
    with pytest.raises(KeyboardInterrupt):
        mine_to_file(inputs, output, other, overwrite=True)
    assert ((output.read_bytes(), report_path(output).read_bytes()) == old) == (step == "finish")
    monkeypatch.undo()
    if step == "finish":
        mine_to_file(inputs, output, other, overwrite=True)
    assert mine_to_file(inputs, output, other) is None
    assert all(len(example.negatives) == 2 for example in read_examples(str(output)))
    report = json.loads(report_path(output).read_text(encoding="utf-8"))
    assert report["output"]["sha256"] == file_sha256(output)
    assert [path.name for path in output.parent.iterdir() if path.name.startswith(".")] == []


def test_examples_under_another_name_are_the_same_and_an_earlier_version_named_them(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mined(path: Path, corpus: Path = files["corpus"]) -> object:
        return mine_to_file(MiningInputs(str(path), corpus=str(corpus)), files["output"], OPEN)

    with monkeypatch.context() as earlier:
        earlier.setattr("llama2vec.mine.mining.examples_fingerprint", named_fingerprint)
        assert mined(files["pairs"])
    assert mined(files["pairs"]) is None
    files["output"].unlink()
    assert mined(files["pairs"])
    renamed = files["pairs"].rename(files["pairs"].with_name("renamed.jsonl"))
    assert mined(renamed) is None


def test_changed_inputs_are_noticed(files: dict[str, Path], corpus: list[Passage]) -> None:
    inputs = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"]))
    mine_to_file(inputs, files["output"], OPEN)
    write_jsonl(files["corpus"], corpus[:-1])
    with pytest.raises(OutputExistsError, match=r"inputs\.corpus: the content differs"):
        mine_to_file(inputs, files["output"], OPEN)
    with pytest.raises(OutputExistsError, match="contract_hash: None there, 'c0ffee' now"):
        mine_to_file(dataclasses.replace(inputs, corpus="", encoder=TopicEncoder), files["output"], OPEN)


@pytest.mark.parametrize(("part", "field"), [("corpus", "text"), ("pairs", "query")])
def test_inputs_that_are_saved_while_they_are_read_are_noticed_too(
    files: dict[str, Path], part: str, field: str, saved_meanwhile: Callable[[Path, str, str], None]
) -> None:
    saved_meanwhile(files[part], f'"{field}": "', f'"{field}": "so ')
    with pytest.raises(InputChangedError, match=f"{files[part].name} changed while it was read"):
        mine_to_file(MiningInputs(str(files["pairs"]), corpus=str(files["corpus"])), files["output"], OPEN)
    assert not files["output"].exists()


def test_a_mining_killed_while_it_encodes_goes_on_from_the_last_shard(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama2vec.mine.mining._SHARD_SIZE", 20)

    class Dying(TopicEncoder):
        def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
            if self.passages_encoded >= 40:
                raise KeyboardInterrupt
            return super().encode_passages(passages)

    inputs = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"]), encoder=Dying)
    with pytest.raises(KeyboardInterrupt):
        mine_to_file(inputs, files["output"], OPEN)
    assert not files["output"].exists()
    encoder = TopicEncoder()
    report = mine_to_file(dataclasses.replace(inputs, encoder=lambda: encoder), files["output"], OPEN)
    assert report is not None
    assert encoder.passages_encoded == 72 - 40
    assert sorted(path.name for path in files["output"].parent.iterdir()) == ["mined.jsonl", "mined.jsonl.report.json"]
    written = json.loads(report_path(files["output"]).read_text(encoding="utf-8"))
    assert written["inputs"]["contract_hash"] == "c0ffee"
    whole = files["output"].with_name("whole.jsonl")
    mine_to_file(dataclasses.replace(inputs, encoder=TopicEncoder), whole, OPEN)
    assert whole.read_bytes() == files["output"].read_bytes()


def test_a_corpus_that_was_encoded_together_is_not_encoded_again(files: dict[str, Path], corpus: list[Passage]) -> None:
    encoder = TopicEncoder()
    inputs = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"]), model="topics", encoder=lambda: encoder)
    encode_together(inputs, files["output"])
    assert encoder.passages_encoded == len(corpus)
    encode_together(inputs, files["output"])
    assert mine_to_file(inputs, files["output"], OPEN)
    assert encoder.passages_encoded == len(corpus)
    assert not list(files["output"].parent.glob("*.store-*"))


def test_a_corpus_that_was_encoded_in_another_number_format_is_encoded_again(
    files: dict[str, Path], corpus: list[Passage]
) -> None:
    encoders = []
    for dtype in ("bfloat16", "float32"):
        encoder = TopicEncoder()
        encoder.dtype = dtype  # type: ignore[attr-defined]
        encoders.append(encoder)
        inputs = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"]), model="m", encoder=lambda: encoders[-1])
        encode_together(inputs, files["output"])
    assert [encoder.passages_encoded for encoder in encoders] == [len(corpus)] * 2
    assert mine_to_file(inputs, files["output"], OPEN)
    assert encoders[-1].passages_encoded == len(corpus)
    assert not list(files["output"].parent.glob("*.store-*"))


def test_a_store_serves_as_corpus_and_must_fit_model_and_corpus(
    files: dict[str, Path], corpus: list[Passage], make_store: Callable[..., VectorStore]
) -> None:
    index = ExactIndex(make_store(corpus))
    inputs = MiningInputs(str(files["pairs"]), encoder=TopicEncoder, index=index)
    mine_to_file(inputs, files["output"], OPEN)
    with_corpus = dataclasses.replace(inputs, corpus=str(files["corpus"]))
    mine_to_file(with_corpus, files["output"].with_name("same.jsonl"), OPEN)
    assert files["output"].with_name("same.jsonl").read_bytes() == files["output"].read_bytes()
    new = files["output"].with_name("new.jsonl")
    with pytest.raises(StoreError, match="under contract c0ffee and the query model has beef"):
        mine_to_file(dataclasses.replace(inputs, encoder=lambda: TopicEncoder("beef")), new, OPEN)
    with pytest.raises(ConfigError, match="needs the model that encoded it"):
        mine_to_file(dataclasses.replace(inputs, encoder=None), new, OPEN)
    other = ExactIndex(make_store(corpus[::-1], "reversed"))
    with pytest.raises(StoreError, match="holds other passages than"):
        mine_to_file(dataclasses.replace(with_corpus, index=other), new, OPEN)
    assert not new.exists()


def test_an_output_that_cannot_be_is_refused_before_any_work(files: dict[str, Path]) -> None:
    inputs = MiningInputs(str(files["pairs"]))
    for output, message in (
        (files["pairs"], "is the output itself"),
        (files["output"].with_name("mined.txt"), r"ends in \.jsonl"),
    ):
        with pytest.raises(Llama2VecError, match=message):
            mine_to_file(inputs, output, OPEN, overwrite=True)
    with pytest.raises(ConfigError, match="nothing to mine with"):
        mine_to_file(inputs, files["output"], OPEN.model_copy(update={"bm25": False}))
    with pytest.raises(Llama2VecError, match="got 0 of 3 negatives"):
        mine_to_file(inputs, files["output"], OPEN.model_copy(update={"short": "error"}))
    assert not files["output"].exists()
    report_path(files["output"]).parent.mkdir(exist_ok=True)
    report_path(files["output"]).write_text('{"stage": "thesis"}', encoding="utf-8")
    with pytest.raises(OutputExistsError, match="did not come from `llama2vec mine`"):
        mine_to_file(inputs, files["output"], OPEN, overwrite=True)
    assert report_path(files["output"]).read_text(encoding="utf-8") == '{"stage": "thesis"}'
