"""Fresh saves pass, damaged golden files are refused, and golden vectors are written only where two readings agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planting import KINDS, Saved, copy_of

from llama2vec.config import ModelSettings
from llama2vec.model.encoder import Encoder
from llama2vec.model.golden import read_golden
from llama2vec.verify.verification import Verification

Models = Callable[[str], Saved]
Cli = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_save_passes(saved_models: Models, cli: Cli, kind: str) -> None:
    for backend in ("llama2vec", "transformers"):
        code, out, _ = cli(saved_models(kind).folder, "--backend", backend)
        assert code == 0, out
        assert f"PASS: {backend} gives the vectors" in out


def test_another_number_format_fails_unless_the_tolerance_allows_it(
    saved_models: Models, cli: Cli, tmp_path: Path
) -> None:
    folder = saved_models("llama-paper").folder
    code, out, _ = cli(folder, "--dtype", "bfloat16", "--output", tmp_path / "found.json")
    assert code == 1
    assert "cause: lower precision" in out
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["passed"] is False
    assert [cause["fault"] for cause in found["causes"]] == ["lower precision"]
    assert found["sides"]["query"]["largest_difference"] > 1e-5
    assert cli(folder, "--dtype", "bfloat16", "--tolerance", "0.2")[0] == 0


def test_an_older_folder_says_what_is_missing_and_gets_golden_vectors_by_write(
    saved_models: Models, cli: Cli, refused: Refused, tmp_path: Path
) -> None:
    saved = saved_models("llama-layers")
    folder = copy_of(saved, tmp_path)
    (folder / "golden.json").unlink()
    (folder / "golden.npy").unlink()
    line = refused(folder)
    assert "saved before golden vectors were" in line
    assert f"llama2vec verify {folder} --write" in line
    before = (folder / "llama2vec.json").read_bytes()
    code, out, _ = cli(folder, "--write")
    assert code == 0, out
    assert "Wrote 6 golden vectors per side" in out
    assert (folder / "golden.npy").read_bytes() == (saved.folder / "golden.npy").read_bytes()
    assert (folder / "llama2vec.json").read_bytes() == before
    assert "--overwrite" in refused(folder, "--write")
    assert cli(folder, "--write", "--overwrite")[0] == 0


def test_golden_vectors_are_not_written_where_two_readings_disagree(
    saved_models: Models, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(saved_models("llama-paper"), tmp_path)
    (folder / "golden.json").unlink()
    monkeypatch.setattr("llama2vec.verify.plain.PlainModel.embed", lambda *_: np.full((6, 32), np.nan))
    assert "no golden vectors were written" in refused(folder, "--write")
    assert not (folder / "golden.json").exists()


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, rehash: bool = False) -> None:
    from llama2vec.manifest import digest

    path = folder / "golden.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    if rehash:
        data.pop("hash")
        data["hash"] = digest(data)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: edit(folder, lambda data: data.update(tolerance=1.0)), "does not match its hash"),
        (lambda folder: edit(folder, lambda data: data["texts"].append("more")), "does not match its hash"),
        (lambda folder: edit(folder, lambda data: data["texts"].pop(), rehash=True), "5 texts on 2 sides"),
        (lambda folder: edit(folder, lambda data: data.update(format=9), rehash=True), "golden format 9"),
        (
            lambda folder: edit(folder, lambda data: data.update(contract="0" * 64), rehash=True),
            "contract 000000000000…",
        ),
        (lambda folder: (folder / "golden.json").write_text("{"), "cannot be read as golden vectors"),
        (lambda folder: (folder / "golden.json").write_text("[]"), "cannot be read as golden vectors"),
        (lambda folder: (folder / "golden.npy").unlink(), "cannot be read as golden vectors"),
        (lambda folder: (folder / "golden.npy").write_bytes(b"x"), "damaged or edited"),
        (lambda folder: (folder / "llama2vec.json").unlink(), "a model that llama2vec saved"),
    ],
)
def test_damaged_golden_files_are_one_line(
    saved_models: Models, refused: Refused, tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    folder = copy_of(saved_models("llama-paper"), tmp_path)
    damage(folder)
    assert told in refused(folder)


def test_a_model_that_was_edited_is_refused_before_anything_is_compared(
    saved_models: Models, refused: Refused, tmp_path: Path
) -> None:
    folder = copy_of(saved_models("llama-paper"), tmp_path)
    contract = json.loads((folder / "llama2vec.json").read_text(encoding="utf-8"))
    contract["encoder"]["passage_max_tokens"] = 7
    (folder / "llama2vec.json").write_text(json.dumps(contract), encoding="utf-8")
    assert "does not match its hash" in refused(folder, "--backend", "transformers")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_fresh_16_bit_save_passes_on_the_machine_that_made_it(
    save_model: Callable[..., Path], tmp_path: Path, cli: Cli, name: str, dtype: str
) -> None:
    settings = ModelSettings.model_validate({"dtype": dtype, "device": "cpu"})
    folder = Encoder.load(save_model(tmp_path / "base", name), settings=settings).save(tmp_path / "saved")
    facts = json.loads((folder / "golden.json").read_text())
    assert facts["dtype"] == dtype
    for backend in ("llama2vec", "transformers"):
        code, out, err = cli(folder, "--backend", backend)
        assert code == 0, out + err


def test_a_16_bit_model_saved_under_the_earlier_smaller_tolerance_gets_that_of_its_format(
    save_model: Callable[..., Path], tmp_path: Path
) -> None:
    settings = ModelSettings(dtype="bfloat16", device="cpu")
    folder = Encoder.load(save_model(tmp_path / "base"), settings=settings).save(tmp_path / "saved")
    usual = read_golden(folder).tolerance
    edit(folder, lambda data: data.update(tolerance=1e-4), rehash=True)
    assert read_golden(folder).tolerance == usual > 1e-3


def test_vectors_within_the_formats_tolerance_are_rounding_and_no_cause_is_guessed(
    saved_models: Models, verified: Callable[..., Verification]
) -> None:
    saved = saved_models("llama-paper")

    def nearly(side: str, texts: list[str]) -> np.ndarray:
        rows = [saved.golden.texts.index(text) for text in texts]
        noise = 5e-6 if len(texts) > 1 else 0
        return saved.golden.vectors[side][rows] + np.float32(noise)  # type: ignore[index, no-any-return]

    found = verified(saved, nearly, tolerance=1e-6)
    assert [cause.fault for cause in found.causes] == ["rounding"]
    assert verified(saved, nearly).passed
