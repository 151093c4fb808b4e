"""Every snippet of docs/python.md runs, in order, on a tiny random model; the page shows every public name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import llama2vec

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_snippets_run_in_order_and_find_the_right_passages(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    llama_folder: Path,
    corpus_file: Path,
    corpus_rows: list[dict[str, str]],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.jsonl").write_bytes(corpus_file.read_bytes())
    pairs = [
        {"query": row["text"][:40], "pos": [row["text"]], "neg": [corpus_rows[0]["text"]]} for row in corpus_rows[1:]
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    found: dict[str, Any] = {}
    for code in SNIPPETS:
        tiny = code.replace('"smollm2-135m"', repr(str(llama_folder))).replace('"steps": 32', '"steps": 2')
        exec(compile(tiny, "docs/python.md", "exec"), found)
    assert [hit.passage.text for hit in found["hits"]] == ["The bridge opened in 1932."]
    assert found["vector"].shape == (32,)
    assert found["vectors"].shape == (3, 32)
    assert found["rows"][:, 0].tolist() == [0, 1, 2]
    assert (tmp_path / "runs" / "tuned" / "llama2vec.json").is_file()
    assert set(found["report"].metrics) == {"nDCG@10", "MRR@10"}


@pytest.mark.parametrize("name", llama2vec.__all__)
def test_the_page_imports_every_public_name(name: str) -> None:
    imported = re.findall(r"from llama2vec import ([^\n]+)", PAGE)
    assert name in {part.strip() for line in imported for part in line.split(",")}
