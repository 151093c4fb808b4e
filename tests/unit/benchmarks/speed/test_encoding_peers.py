"""Encoding beside other programs: what a side's process answers, which rows are due, and the tables' arithmetic."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


def group(ours: list[float], **sides: Any) -> dict[str, Any]:
    """Return a row: ours, and each side by its (tokens per second, smallest cosine) or its failure."""
    found: dict[str, Any] = {"ours": {"tokens_per_second": ours, "vectors": {"min_cosine": 0.9999, "mean_cosine": 1.0}}}
    for name, one in sides.items():
        side = name.replace("_", "-")
        if isinstance(one, str):
            found[side] = {"failed": one}
        else:
            vectors = {"min_cosine": one[1], "mean_cosine": one[1]}
            found[side] = {"tokens_per_second": one[0], "vectors": vectors}
    return found


@pytest.fixture
def file() -> dict[str, Any]:
    """Two groups at one length: OpenVINO in int8 is the fastest, and too far from float32."""
    return {
        "model": {"weights": 1_000_000},
        "prompt_tokens": 10,
        "rows": {
            "peak": {"bfloat16": 40.0, "float32": 10.0},
            "openvino 100": group(
                [1000.0, 1200.0], openvino=([800.0, 1000.0], 0.9991), openvino_int8=([2000.0, 2400.0], 0.98)
            ),
            "sentence-transformers 100": group(
                [1400.0, 1000.0],
                sentence_transformers=([700.0, 1000.0], 0.9995),
                sentence_transformers_onnx="ImportError: no optimum",
            ),
            "latency openvino": {"p50_ms": 9.6, "p95_ms": 12.2, "cold_seconds": [3.0, 1.0, 2.0]},
        },
    }


def test_a_ratio_is_the_median_of_the_turns_of_ours_by_the_side(file: dict[str, Any]) -> None:
    from benchmarks.speed.encoding_peers_table import rates, ratios

    assert rates(file["rows"], "ours") == {100: [1000.0, 1200.0, 1400.0, 1000.0]}
    assert ratios(file["rows"], "openvino") == {100: pytest.approx((1.25 + 1.2) / 2)}
    assert ratios(file["rows"], "sentence-transformers") == {100: pytest.approx(1.5)}
    assert ratios(file["rows"], "ours") == {}


def test_the_best_peer_is_the_fastest_whose_vectors_are_as_good(file: dict[str, Any]) -> None:
    from benchmarks.speed.encoding_peers_table import bars

    # 1,100 tokens a second, 110 % of which are read, by a million weights, two operations each: 2.42 of 40 GFLOP/s.
    last = bars(file).splitlines()[-1]
    assert last == "| 100 | 1,100 | OpenVINO, bfloat16 | 1.23 | 1.50 | 6% |"
    file["rows"]["openvino 100"]["openvino"]["vectors"]["min_cosine"] = 0.9989
    assert "| sentence-transformers, torch, bfloat16 | 1.50 | 1.50 |" in bars(file)


def test_the_table_shows_speed_cosines_and_latency_and_names_what_did_not_run(file: dict[str, Any]) -> None:
    from benchmarks.speed.encoding_peers_table import table

    lines = table(file).splitlines()
    assert "| OpenVINO | bfloat16 | 900 (1.23) |" in lines
    assert "| OpenVINO | bfloat16 | 0.99910 | 0.99910 | 10 (12) | 2.0 |" in lines
    assert lines[-1] == "- sentence-transformers, ONNX, float32: not measured (ImportError: no optimum)"


def test_every_side_has_a_name_and_a_way_to_open_it() -> None:
    from benchmarks.speed.encoding_peer import SIDES
    from benchmarks.speed.encoding_peers import GROUPS
    from benchmarks.speed.encoding_peers_table import NAMES

    assert set(NAMES) == set(SIDES) == {"ours", *(side for sides in GROUPS.values() for side in sides)}


def test_texts_of_a_length_are_whole_words_in_reading_order(tokenizer: Any, tmp_path: Path) -> None:
    from benchmarks.texts import texts_of_length

    words = [f"word{number % 7}" for number in range(300)]
    rows = [
        {"id": f"1-{place}", "text": " ".join(words[start : start + 50])}
        for place, start in enumerate(range(0, 300, 50))
    ]
    (tmp_path / "wiki").mkdir()
    (tmp_path / "wiki" / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source, found = texts_of_length(tmp_path, tokenizer, 24, 4)
    assert source == "wiki/dev.jsonl"
    assert len(found) == 4
    assert " ".join(found).split() == words[: sum(len(text.split()) for text in found)]
    assert all(12 < len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= 25 for text in found)


class Clock:
    """A clock that stands still but for what the fake side spends: rows cost less in batches of four."""

    now = 0.0

    def embed(self, texts: Sequence[str], rows: int) -> Any:
        self.now += len(texts) * (0.1 if rows == 4 else 0.4)
        return np.ones((len(texts), 2))


def test_a_side_measures_with_the_faster_size_of_a_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks.speed import encoding_peer

    clock = Clock()
    monkeypatch.setattr(
        encoding_peer, "time", SimpleNamespace(perf_counter=lambda: clock.now, process_time=lambda: clock.now / 2)
    )
    monkeypatch.setattr(encoding_peer, "_busy_seconds", lambda: 1.5 * clock.now)
    monkeypatch.setitem(encoding_peer.SIDES, "openvino", lambda _: clock.embed)
    (tmp_path / "texts.json").write_text(json.dumps({"1024": [["a b", 8], ["c", 12]]}), encoding="utf-8")
    found = encoding_peer.Side("openvino", tmp_path).throughput("1024", 2.0)
    assert found["rows"] == 4
    assert found["tokens_per_second"] == pytest.approx(100)
    assert 1.5 < found["seconds"] <= 2.0
    assert set(found["tried"]) == {1, 4}
    # Half a processor is its own; the clock of the processors says that one and a half worked.
    assert found["others"] == pytest.approx(1.0)


class Disturbed:
    """A side whose first turn lost half a processor to other work."""

    def __init__(self) -> None:
        self.answers = iter([(100.0, 0.5), (300.0, 0.02), (200.0, 0.0)])

    def ask(self, _: str, **__: Any) -> dict[str, Any]:
        rate, others = next(self.answers)
        return {"tokens_per_second": rate, "others": others, "rows": 8, "tried": {}}


def test_a_turn_that_other_work_disturbed_is_measured_again() -> None:
    from benchmarks.speed.encoding_peers import _in_turns

    peers: Any = {"ours": Disturbed()}
    found = _in_turns(peers, "128", argparse.Namespace(turns=2, seconds=1.0))
    assert found == {"ours": {"tokens_per_second": [300.0, 200.0], "others": [0.02, 0.0], "batch_rows": 8}}


def test_padded_batches_give_the_vectors_in_the_order_of_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.speed import encoding_peer

    ids = {"one": [7], "three": [5, 6, 9], "two": [8, 2]}
    fake = SimpleNamespace(encode_batch=lambda texts: [SimpleNamespace(ids=ids[text]) for text in texts])
    monkeypatch.setattr(encoding_peer, "_tokenizer", lambda _: fake)

    def run(tokens: Any, mask: Any) -> Any:
        # First token, last real token and length say whether a row is whole.
        last = tokens[np.arange(len(tokens)), mask.sum(axis=1) - 1]
        return np.stack([tokens[:, 0], last, mask.sum(axis=1)], axis=1)

    embed = encoding_peer._padded(Path(), run)
    expected = [[7, 7, 1], [5, 9, 3], [8, 2, 2]]
    assert embed(["one", "three", "two"], 2).tolist() == expected
    assert embed(["one", "three", "two"], 1).tolist() == expected


def test_a_side_that_cannot_be_opened_answers_with_its_reason(tmp_path: Path) -> None:
    from benchmarks.speed.encoding_peers import opened

    with opened("no such side", tmp_path) as peer:
        assert peer.ask("first", length="12") == {"failed": "KeyError: 'no such side'"}
        peer._process.kill()
        assert "ended with status -9" in peer.ask("first", length="12")["failed"]


def test_rows_that_are_there_or_would_take_too_long_are_not_due(tmp_path: Path) -> None:
    from benchmarks.speed.encoding_peers import Bench

    settings = argparse.Namespace(work=str(tmp_path), output=tmp_path / "found.json", minutes=60.0, model="tiny")
    settings.output.write_text(json.dumps({"rows": {"a": 1}}), encoding="utf-8")
    bench = Bench(settings)
    bench.facts = dict.fromkeys(("native_bfloat16", "layers", "weights", "prompt", "texts", "prompt_tokens"), 1)
    for key in bench.due(["a", "b"]):
        bench.rows[key] = 2
    assert json.loads(settings.output.read_text(encoding="utf-8"))["rows"] == {"a": 1, "b": 2}
    settings.minutes = 0.0
    assert list(bench.due(["c"])) == []


def test_rows_of_another_model_are_not_completed(tmp_path: Path) -> None:
    from benchmarks.speed.encoding_peers import Bench

    settings = argparse.Namespace(work=str(tmp_path), output=tmp_path / "found.json", minutes=60.0, model="tiny")
    facts = dict.fromkeys(("native_bfloat16", "layers", "weights", "prompt", "texts", "prompt_tokens"), 1)
    (tmp_path / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    for _ in range(2):
        bench = Bench(settings)
        bench.open()
        bench.save()
    (tmp_path / "facts.json").write_text(json.dumps(facts | {"layers": 2}), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"found\.json is of the model .*'layers': 1.*; choose another --output"):
        Bench(settings).open()
