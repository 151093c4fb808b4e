"""Golden texts out, vectors of another program in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planting import Saved

Models = Callable[[str], Saved]
Cli = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


def test_exported_texts_come_back_as_vectors_in_every_format(saved_models: Models, cli: Cli, tmp_path: Path) -> None:
    saved = saved_models("llama-paper")
    texts = tmp_path / "texts.jsonl"
    assert cli(saved.folder, "--export-texts", texts)[0] == 0
    rows = [json.loads(line) for line in texts.read_text(encoding="utf-8").split("\n") if line]
    assert [row["id"] for row in rows[:2]] == ["query-0", "query-1"]
    assert len(rows) == 2 * len(saved.golden.texts)
    vectors = np.array([saved.last(saved.row(row["side"], row["text"])) for row in rows])
    np.save(tmp_path / "flat.npy", vectors)
    np.save(tmp_path / "stacked.npy", vectors.reshape(2, -1, 32))
    np.savez(tmp_path / "named.npz", query=vectors[:6], passage=vectors[6:])
    shuffled = [{"id": row["id"], "embedding": vector.tolist()} for row, vector in zip(rows, vectors, strict=True)]
    lines = [json.dumps(row) for row in reversed(shuffled)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for name in ("flat.npy", "stacked.npy", "named.npz", "rows.jsonl"):
        code, out, _ = cli(saved.folder, "--backend", "file", "--vectors", tmp_path / name)
        assert code == 0, out
        assert "not checked: " in out


def test_a_prompted_text_is_what_the_model_reads(saved_models: Models, cli: Cli, tmp_path: Path) -> None:
    for kind in ("llama-paper", "llama-released"):
        saved, texts = saved_models(kind), tmp_path / f"{kind}.jsonl"
        cli(saved.folder, "--export-texts", texts)
        rows = [json.loads(line) for line in texts.read_text(encoding="utf-8").split("\n") if line]
        read = [saved.tokenizer(row["prompted"])["input_ids"] for row in rows]
        assert read == [saved.row(row["side"], row["text"]) for row in rows]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.npy", np.zeros((5, 32), np.float32), "shape [5, 32] for 6 queries"),
        ("a.npy", b"no numpy", "write it again"),
        ("a.jsonl", b'{"id": "query-0"}\n', "line 1 is not"),
        ("a.jsonl", b'{"id": "query-0", "embedding": [1.0]}\n', "no vector for query-1, 11 of 12 are missing"),
    ],
)
def test_a_faulty_file_of_vectors_is_one_line(
    saved_models: Models, refused: Refused, tmp_path: Path, name: str, content: Any, told: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    assert told in refused(saved_models("llama-paper").folder, "--backend", "file", "--vectors", path)
