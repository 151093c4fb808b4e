"""What a teacher adds where an encoder loses layers, on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from encoders import encoder_for


def test_every_row_is_made_once_and_only_one_training_has_the_teachers_scores(
    llama_folder: Path, toy_data: Path, toy_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.quality import distillation

    teacher = encoder_for(llama_folder).save(tmp_path / "teacher")
    output = tmp_path / "distillation.json"
    command = ["--data", str(toy_data), "--work", str(tmp_path / "work"), "--output", str(output), "--teacher",
               str(teacher), "--layers", "1", "--pairs", "8", "--budget", str(toy_file)]  # fmt: skip
    tiny = ["optimizer.steps=2", "optimizer.batch_size=4", "model.lora.rank=2"]
    distillation.main([*command, *(part for term in tiny for part in ("--set", term))])

    results = json.loads(output.read_text(encoding="utf-8"))
    assert list(results["rows"]) == ["teacher", "cut", "labels", "labels and teacher"]
    for row in results["rows"].values():
        assert set(row["scores"]) == {"one/test", "two/test", "pairs.tsv"}
        assert 0 <= row["average"] <= 1
    rows = [json.loads(line) for line in (tmp_path / "work" / "scored.jsonl").read_text().splitlines()]
    assert all(len(row["pos_scores"]) == len(row["pos"]) for row in rows)
    assert all(len(row.get("neg_scores", [])) == len(row["neg"]) for row in rows)
    weights = {
        name: json.loads((tmp_path / "work" / name / "manifest.json").read_text())["settings"]["contrastive"]
        for name in ("labels", "labels-and-teacher")
    }
    assert [one["distillation_weight"] for one in weights.values()] == [0.0, 1.0]

    before = output.read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        distillation.main(command)  # other settings
    assert "was made with other settings (recipe); choose another --output" in capsys.readouterr().err
    assert output.read_bytes() == before
