"""sentence-transformers as a backend, and the code in a folder that is never run."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planting import Planted, Saved, copy_of

from llama2vec.errors import BackendError
from llama2vec.verify.backends import vectors_of

Models = Callable[[str], Saved]
Cli = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.mark.parametrize("kind", ["llama-paper", "llama-released"])
def test_a_fresh_save_passes_in_sentence_transformers(saved_models: Models, cli: Cli, kind: str) -> None:
    code, out, err = cli(saved_models(kind).folder, "--backend", "sentence-transformers")
    assert code == 0, out + err


def test_a_folder_that_sentence_transformers_knows_nothing_of_is_pooled_at_the_texts_end(
    saved_models: Models, cli: Cli, tmp_path: Path
) -> None:
    folder = copy_of(saved_models("llama-paper"), tmp_path)
    for name in ("modules.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    code, out, _ = cli(folder, "--backend", "sentence-transformers")
    assert code == 1
    assert "cause: missing normalization" in out
    told = "cause: no EOS: queries and passages: the prompt does not end in its EOS token"
    assert told in out, out


def add_module(folder: Path) -> None:
    (folder / "evil.py").write_text("open('RAN', 'w')\nimport torch\n\n\nclass E(torch.nn.Module): pass\n")
    (folder / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "evil.E"}]')


def append_module(folder: Path) -> None:
    path = folder / "modules.json"
    own = json.loads(path.read_text())
    path.write_text(json.dumps([*own, {"idx": 1, "name": "1", "path": "", "type": "evil.E"}]))


def change_module(folder: Path) -> None:
    module = folder / "portable_encoder.py"
    module.write_text("open('RAN', 'w')\n" + module.read_text(encoding="utf-8"), encoding="utf-8")


def name_code_in(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        data = json.loads(path.read_text())
        # Escaped, so that no search for the word finds it.
        text = json.dumps({**data, "auto_map": {"AutoTokenizer": ["evil.E", None]}})
        path.write_text(text.replace("_map", chr(92) + "u005fmap"))

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (change_module, "portable_encoder.py differs from that of llama2vec"),
        (add_module, "modules.json names code other than portable_encoder.py"),
        (append_module, "modules.json names code other than portable_encoder.py"),
        (name_code_in("config.json"), "config.json names code of its own (auto_map)"),
        (name_code_in("tokenizer_config.json"), "tokenizer_config.json names code of its own (auto_map)"),
        (lambda folder: (folder / "portable_encoder.py").unlink(), "portable_encoder.py is missing"),
        (lambda folder: (folder / "modules.json").write_text("{"), "modules.json: cannot be read as JSON"),
        (lambda folder: (folder / "modules.json").write_text("3"), "modules.json names code other than"),
    ],
)
def test_code_in_the_folder_that_is_not_ours_is_refused_and_not_run(
    saved_models: Models, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], object], told: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    folder = copy_of(saved_models("llama-paper"), tmp_path)
    change(folder)
    assert told in refused(folder, "--backend", "sentence-transformers")
    assert not (tmp_path / "RAN").exists()


def test_a_backend_must_give_one_vector_per_text() -> None:
    with pytest.raises(BackendError, match=r"planted: asked for 2 texts, and the answer has shape \[1, 3\]"):
        vectors_of(Planted(lambda *_: np.ones((1, 3))), "query", ["a", "b"])


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


def archive() -> bytes:
    with BytesIO() as file:
        np.savez_compressed(file, query=np.arange(192.0), passage=np.arange(192.0))
        return file.getvalue()


def damaged_archive() -> bytes:
    return archive()[:80] + b"\xff" * 40 + archive()[120:]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.npy", np.zeros((5, 32), np.float32), "shape [5, 32] for 6 queries"),
        ("a.npy", b"no numpy", "write it again"),
        ("a.npz", b"PK\x03\x04 cut short", "a.npz: File is not a zip file; write it again"),
        ("a.npz", damaged_archive(), "a.npz: Error -3 while decompressing data"),
        ("a.npz", np.zeros((12, 32), np.float32), "a.npz: the content is of the other kind"),
        ("a.npy", archive(), "a.npy: the content is of the other kind"),
        ("a.jsonl", b'{"id": "query-0"}\n', "line 1 is not"),
        ("a.jsonl", b'{"id": "query-0", "embedding": ' + b"[" * 100_000, "line 1 is not"),
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
        with path.open("wb") as file:
            np.save(file, content)
    assert told in refused(saved_models("llama-paper").folder, "--backend", "file", "--vectors", path)
