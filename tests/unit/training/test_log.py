"""The log of a training and its picture."""

from __future__ import annotations

import json
from pathlib import Path

from llama2vec.training.log import draw_losses, truncate_log


def test_the_log_is_cut_behind_the_step_that_training_resumes_from(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [{"step": step, "loss": 1.0 / step} for step in (2, 4, 6, 8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "lo', encoding="utf-8")
    truncate_log(path, 6)
    assert [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()] == [2, 4, 6]
    truncate_log(path, 0)
    assert path.read_text(encoding="utf-8") == ""
    truncate_log(tmp_path / "none.jsonl", 6)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_log_of_one_line_still_draws_a_picture(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n', encoding="utf-8")
    draw_losses(tmp_path / "log.jsonl", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000
