"""The demo, on a tiny random model instead of a real one."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from encoders import encoder_for

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import load_config
from llama2vec.records import Passage
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.score.results import read_result

ROOT = Path(__file__).parents[2]


def test_the_demo_scores_seven_systems_and_a_second_run_repeats_nothing(
    tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    for name in ("demo", "python_documentation"):
        sys.modules.pop(name, None)
    demo = importlib.import_module("demo")
    # Every third text is enough for every step; a random model learns nothing from more.
    documentation = importlib.import_module("python_documentation")
    some = list(documentation.docstrings())[::3]
    monkeypatch.setattr(documentation, "docstrings", lambda: iter(some))
    recipe = ROOT / "recipes" / "demo.toml"
    changes = [f'model.name="{llama_folder}"', "optimizer.steps=2", "optimizer.validate_every=0"]
    config = load_config(AdaptConfig, recipe, changes)

    ready = str(encoder_for(llama_folder).save(tmp_path / "ready"))

    demo.run_demo(tmp_path / "demo", config, ready)

    results = {
        folder.name: read_result(folder / "python-documentation.json").report.metrics
        for folder in (tmp_path / "demo" / "scores").iterdir()
    }
    assert set(results) == {
        "bm25", "ready", "ready-hybrid", "raw-mean", "raw-prompted", "adapted", "hybrid",
    }  # fmt: skip
    for scores in results.values():
        assert set(scores) == {"nDCG@10", "MRR@10", "R@100"}
        assert all(0 <= value <= 1 for value in scores.values())
    # BM25 does not depend on the model: it must find documentation by its own words.
    assert results["bm25"]["nDCG@10"] > 0.3
    printed = capsys.readouterr().out
    for system in ("BM25", "ready, among BM25's first 50, by cosine", "adapted", "hybrid: adapted + BM25"):
        assert f"{demo.QUESTION}  [{system}]" in printed
    place = re.search(r"1\. \S*manual/(\w+\.rst):(\d+)  .*\n +…?(.*)", printed)
    assert place is not None, printed[-1500:]
    chapter = (tmp_path / "demo" / "manual" / place[1]).read_text(encoding="utf-8").splitlines()
    line = " ".join(chapter[int(place[2]) - 1].split())
    assert set(re.findall(r"[a-z]{4,}", line.lower())) & set(re.findall(r"[a-z]{4,}", place[3].lower()))

    def stores() -> dict[Path, int]:
        names = ("store", "ready-store")
        return {path: path.stat().st_mtime_ns for name in names for path in (tmp_path / "demo" / name).iterdir()}

    written = stores()

    def no_training(*_: object, **__: object) -> None:
        raise AssertionError("the second run trained again")

    monkeypatch.setattr("llama2vec.adapt.train.train", no_training)
    demo.run_demo(tmp_path / "demo", config, ready)
    assert written == stores()
    assert "among BM25's first" not in capsys.readouterr().out


def test_the_first_answer_reranks_what_bm25_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    demo = importlib.import_module("demo")
    passages = [Passage(f"p{number:02}", f"open a web page in the browser {'x ' * number}") for number in range(60)]
    lexical = Bm25Index.build([*passages, Passage("other", "nothing of the kind")])

    class Reversed:
        def encode_passages(self, read: list[Passage]) -> np.ndarray:
            assert len(read) == demo.RERANKED
            assert all(passage.id < "p50" for passage in read), "BM25 prefers short passages"
            angles = [int(passage.id[1:]) / 60 for passage in read]
            return np.array([[np.sin(angle), np.cos(angle)] for angle in angles])

        def encode_queries(self, asked: list[str]) -> np.ndarray:
            assert asked == [demo.QUESTION]
            return np.array([[1.0, 0.0]])

    demo.rerank_the_first(Reversed(), lexical, passages)
    assert re.findall(r"^ +\d\. (\S+)  (\S+)$", capsys.readouterr().out, re.M) == [
        (f"{np.sin(number / 60):.2f}", f"p{number}") for number in (49, 48, 47)
    ]
