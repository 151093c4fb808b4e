"""From a corpus to a file of examples with generated queries, also after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from llama2vec.config import ModelSettings
from llama2vec.data.examples.labeled import read_examples
from llama2vec.data.examples.reported import report_path
from llama2vec.errors import DataError, EmptyCorpusError, OutputExistsError
from llama2vec.generate import generation
from llama2vec.generate.generation import GenerationInputs, generate_to_file
from llama2vec.generate.settings import GenerateSettings
from llama2vec.model.source import ModelSource

SETTINGS = GenerateSettings(
    prompt="{passage} Q:", questions=2, temperature=1, batch_size=4, round_trip=0, most_copied=1, question_max_tokens=4
)


class Echo:
    """Asks about the first words of a text; the second question is always the same."""

    calls: ClassVar[list[tuple[int, int]]] = []
    killed_after = 99

    def __init__(self, *_: object) -> None: ...

    def warn_of_cut(self, texts: Sequence[str]) -> None: ...

    def write(self, texts: Sequence[str], seed: int) -> list[list[str]]:
        if len(self.calls) >= self.killed_after:
            raise KeyboardInterrupt
        self.calls.append((len(texts), seed))
        return [[f"what about {' '.join(text.split()[1:6])}", "what is the answer"] for text in texts]


@pytest.fixture
def inputs(
    llama_folder: Path, tmp_path: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> GenerationInputs:
    monkeypatch.setattr("llama2vec.generate.writer.QuestionWriter", Echo)
    monkeypatch.setattr(Echo, "calls", [])
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"_id": f"p{row}", "text": text, "title": f"T{row}"} for row, text in enumerate(sentences[:10])]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"_id": "short", "text": "too short"}]))
    return GenerationInputs(str(corpus), ModelSettings(name=str(llama_folder), dtype="float32", device="cpu"))


def test_questions_become_examples_with_a_report(
    inputs: GenerationInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "pairs.jsonl"
    report = generate_to_file(inputs, output, SETTINGS)
    assert report is not None
    examples = list(read_examples(str(output)))
    assert [example.positive_ids for example in examples] == [(f"p{row}",) for row in range(10)]
    assert examples[3].query == "what about " + " ".join(examples[3].positives[0].split()[1:6])
    assert examples[3].positives[0].startswith("T3 ")
    # Each batch has a seed of its own, which does not depend on where an earlier call ended.
    assert Echo.calls == [(4, 0), (4, 4), (2, 8)]
    told = json.loads(report_path(output).read_text())["results"]
    assert (told["passages"], told["asked"], told["kept"]) == (11, 10, 10)
    assert told["refused"]["repeated"]["questions"] == 10
    assert "20 questions for 10 of 11 passages; 10 kept" in report.summary()
    kept, *files = sorted(path.name for path in output.parent.iterdir())[1:]
    assert kept.startswith("pairs.jsonl.questions-")
    assert files == ["pairs.jsonl.report.json"]
    monkeypatch.setattr("llama2vec.model.backbone.load_backbone", lambda *_: pytest.fail("loads the LLM for nothing"))
    assert generate_to_file(inputs, output, SETTINGS) is None
    with pytest.raises(OutputExistsError):
        generate_to_file(inputs, output, SETTINGS.model_copy(update={"seed": 1}))


@pytest.mark.parametrize("cut", [False, True])
def test_a_killed_call_resumes_with_the_batches_that_it_finished(
    inputs: GenerationInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "pairs.jsonl"
    generate_to_file(inputs, whole, SETTINGS)
    Echo.calls.clear()
    monkeypatch.setattr(Echo, "killed_after", 2)
    with pytest.raises(KeyboardInterrupt):
        generate_to_file(inputs, output, SETTINGS)
    (left,) = tmp_path.glob("pairs.jsonl.questions-*")
    assert not output.exists()
    # The kill came while a line was written, or the power was cut.
    left.write_bytes(left.read_bytes()[:-5] + (b"\0" * 9 + b"\n" if cut else b""))
    monkeypatch.setattr(Echo, "killed_after", 99)
    Echo.calls.clear()
    generate_to_file(inputs, output, SETTINGS)
    assert Echo.calls == [(4, 4), (2, 8)]
    assert output.read_bytes() == whole.read_bytes()
    assert list(tmp_path.glob("pairs.jsonl.questions-*")) == [left]


def test_other_filters_need_no_new_questions_and_other_questions_take_the_place_of_the_first(
    inputs: GenerationInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "pairs.jsonl"
    generate_to_file(inputs, output, SETTINGS)
    (first,) = tmp_path.glob("*.questions-*")
    Echo.calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr("llama2vec.model.backbone.load_backbone", lambda *_: pytest.fail("loads the LLM for nothing"))
        report = generate_to_file(inputs, output, SETTINGS.model_copy(update={"max_words": 20}), overwrite=True)
        assert report is not None
        assert (report.asked, report.kept) == (10, 10)
        assert json.loads(report_path(output).read_text())["settings"]["max_words"] == 20
        assert generate_to_file(inputs, output, SETTINGS, overwrite=True) is not None
        assert generate_to_file(inputs, output, SETTINGS, overwrite=True, again=False) is None
    assert Echo.calls == []
    assert len(list(read_examples(str(output)))) == 10
    other = SETTINGS.model_copy(update={"seed": 1})
    monkeypatch.setattr(Echo, "killed_after", 1)
    with pytest.raises(KeyboardInterrupt):
        generate_to_file(inputs, output, other, overwrite=True)
    assert len(list(read_examples(str(output)))) == 10
    assert first in tmp_path.glob("*.questions-*")
    monkeypatch.setattr(Echo, "killed_after", 99)
    generate_to_file(inputs, output, other, overwrite=True)
    (second,) = tmp_path.glob("*.questions-*")
    assert second != first


def test_questions_go_on_offline_and_those_for_other_passages_are_written_again(
    inputs: GenerationInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = ModelSource("org/llm", "org/llm", hub_id="org/llm")
    places = {"online": online, "offline": replace(online, location=inputs.model.name)}
    monkeypatch.setattr("llama2vec.model.backbone.load_backbone", lambda *_, **__: None)
    inputs = replace(inputs, model=inputs.model.model_copy(update={"name": "org/llm"}))
    output = tmp_path / "pairs.jsonl"

    def ask(place: str, killed_after: int) -> None:
        Echo.calls.clear()
        monkeypatch.setattr(generation, "fetched", lambda _: places[place])
        monkeypatch.setattr(Echo, "killed_after", killed_after)
        with suppress(KeyboardInterrupt):
            generate_to_file(inputs, output, SETTINGS)

    ask("online", 1)
    ask("offline", 1)
    assert Echo.calls == [(4, 4)]
    (left,) = tmp_path.glob("pairs.jsonl.questions-*")
    lines = left.read_text(encoding="utf-8").splitlines(keepends=True)
    left.write_text("".join(lines[8:] + lines[:8]), encoding="utf-8")
    ask("online", 99)
    assert Echo.calls == [(4, 0), (4, 4), (2, 8)]
    ask("offline", 0)
    assert Echo.calls == []


def test_a_corpus_that_is_saved_while_it_is_read_is_noticed(
    inputs: GenerationInputs, tmp_path: Path, saved_meanwhile: Callable[[Path, str, str], None]
) -> None:
    saved_meanwhile(Path(inputs.corpus), "too short", "shorter")
    with pytest.raises(DataError, match=r"corpus\.jsonl changed while it was read"):
        generate_to_file(inputs, tmp_path / "pairs.jsonl", SETTINGS)
    assert Echo.calls == []


def test_fewer_passages_are_spread_over_the_corpus(inputs: GenerationInputs, tmp_path: Path) -> None:
    output = tmp_path / "pairs.jsonl"
    generate_to_file(inputs, output, SETTINGS.model_copy(update={"passages": 4}))
    assert [one.positive_ids for one in read_examples(str(output))] == [("p0",), ("p2",), ("p5",), ("p7",)]


def test_a_corpus_without_long_passages_and_an_llm_without_sense_are_one_line_each(
    inputs: GenerationInputs, tmp_path: Path
) -> None:
    with pytest.raises(EmptyCorpusError, match=r"no passage has 99 words to ask about"):
        generate_to_file(inputs, tmp_path / "a.jsonl", SETTINGS.model_copy(update={"passage_min_words": 99}))
    with pytest.raises(
        DataError, match=r"wrote 20 questions and none is left; .* fewer words than min_words.* loosen the filters"
    ):
        generate_to_file(inputs, tmp_path / "b.jsonl", SETTINGS.model_copy(update={"min_words": 23}))
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["corpus.jsonl"]
    # The questions stay: other filters need no new ones.
    Echo.calls.clear()
    generate_to_file(inputs, tmp_path / "b.jsonl", SETTINGS)
    assert Echo.calls == []
