"""The same training with several seeds: folders, the table, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from running import CommandLine

from llama2vec.cli.seeds import read_seeds, run_seeds
from llama2vec.errors import ConfigError, OutputExistsError


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama2vec.training.loop.draw_losses", lambda *_: None)


@pytest.fixture
def fine_tuning(llama_folder: Path, tmp_path: Path) -> list[object]:
    file = tmp_path / "pairs.jsonl"
    rows = [{"query": f"river {row}", "pos": [f"stone {row}"], "neg": []} for row in range(10)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sets = ["optimizer.steps=1", "optimizer.batch_size=4", "model.device=cpu", "model.dtype=float32"]
    command: list[object] = ["finetune", "--model", llama_folder, "--data", file, "-o", tmp_path / "out"]
    return command + [part for change in sets for part in ("--set", change)]


def test_each_seed_has_a_folder_and_the_table_their_mean_and_deviation(
    command_line: CommandLine, fine_tuning: list[object], tmp_path: Path
) -> None:
    done = command_line(*fine_tuning, "--seeds", "3,5")
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "out" / "seeds.json").read_text(encoding="utf-8"))
    assert (content["verb"], content["seeds"]) == ("finetune", [3, 5])
    losses = []
    for seed in (3, 5):
        manifest = json.loads((tmp_path / "out" / f"seed-{seed}" / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["settings"]["optimizer"]["seed"] == seed
        losses.append(manifest["results"]["losses"]["loss"])
    assert losses[0] != losses[1]
    row = content["figures"]["loss"]
    assert row["values"] == losses
    assert row["mean"] == pytest.approx(sum(losses) / 2)
    assert row["std"] == pytest.approx(stdev(losses))
    assert f"{row['mean']:.4f}" in done.out
    assert f"Wrote {tmp_path / 'out' / 'seeds.json'}" in done.out
    # One more seed: the others are finished.
    again = command_line(*fine_tuning, "--seeds", "3,5,6")
    assert again.out.count("is already done") == 2
    assert (
        len(json.loads((tmp_path / "out" / "seeds.json").read_text(encoding="utf-8"))["figures"]["loss"]["values"]) == 3
    )
    alone = command_line(*fine_tuning[:6], tmp_path / "alone", *fine_tuning[7:], "--set", "optimizer.seed=5")
    assert alone.code == 0, alone.err
    manifest = json.loads((tmp_path / "alone" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["results"]["losses"]["loss"] == losses[1]


def test_further_seeds_join_those_of_an_earlier_call_that_have_the_same_settings(
    command_line: CommandLine, fine_tuning: list[object], tmp_path: Path
) -> None:
    def table() -> dict[str, Any]:
        content: dict[str, Any] = json.loads((tmp_path / "out" / "seeds.json").read_text(encoding="utf-8"))
        return content

    assert command_line(*fine_tuning, "--seeds", "3,5").code == 0
    before = table()["figures"]["loss"]["values"]
    done = command_line(*fine_tuning, "--seeds", "6")
    assert done.code == 0, done.err
    assert table()["seeds"] == [3, 5, 6]
    assert table()["figures"]["loss"]["values"][:2] == before
    assert "finetune, 3 seeds" in done.out
    # An earlier seed that is no longer whole, and others with other settings.
    (tmp_path / "out" / "seed-5" / "manifest.json").unlink()
    done = command_line(*fine_tuning, "--seeds", "7")
    assert table()["seeds"] == [3, 6, 7]
    assert "Seed 5 leaves the table: it is not finished with these settings" in done.out
    done = command_line(*fine_tuning, "--set", "optimizer.learning_rate=0.5", "--seeds", "8")
    assert done.code == 0, done.err
    assert table()["seeds"] == [8]
    assert "Seed 3 leaves the table:" in done.out
    assert "optimizer.learning_rate" in done.out
    assert (tmp_path / "out" / "seed-3" / "manifest.json").is_file()


def test_an_adaptation_and_a_run_are_repeated_too(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    base = ["--corpus", corpus_file, "--model", llama_folder, "--seeds", "0,1", "--set", "model.device=cpu"]
    sizes = ["optimizer.steps=1", "optimizer.batch_size=2"]
    done = command_line("adapt", *base, "-o", tmp_path / "a", *(part for one in sizes for part in ("--set", one)))
    assert done.code == 0, done.err
    assert "loss_self" in json.loads((tmp_path / "a" / "seeds.json").read_text(encoding="utf-8"))["figures"]
    more = [part for one in sizes for stage in ("adapt", "finetune") for part in ("--set", f"{stage}.{one}")]
    done = command_line("run", *base, "-o", tmp_path / "r", *more, "--until", "adapt")
    assert done.code == 0, done.err
    figures = json.loads((tmp_path / "r" / "seeds.json").read_text(encoding="utf-8"))["figures"]
    assert len(figures["adapt: loss"]["values"]) == 2
    base[base.index("0,1")] = "2"
    done = command_line("run", *base, "-o", tmp_path / "r", *more, "--until", "adapt")
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "r" / "seeds.json").read_text(encoding="utf-8"))
    assert content["seeds"] == [0, 1, 2]
    assert content["figures"]["adapt: loss"]["values"][:2] == figures["adapt: loss"]["values"]
    for seed in (0, 1):
        recipe = json.loads((tmp_path / "r" / f"seed-{seed}" / "run.json").read_text(encoding="utf-8"))["recipe"]
        seeds = [recipe["adapt"]["optimizer"]["seed"], recipe["finetune"]["optimizer"]["seed"], recipe["pairs"]["seed"]]
        assert seeds == [seed] * 3
        names = [recipe[stage]["tracking"]["name"] for stage in ("adapt", "finetune")]
        assert names == [f"r-seed-{seed}-adapt", f"r-seed-{seed}-finetune"]


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("0,a", [], "write whole numbers from 0 to 4,294,967,295 with commas"),
        ("0,,1", [], "write whole numbers"),
        ("-1", [], "write whole numbers"),
        ("4294967296", [], "write whole numbers"),
        ("1,01", [], "a seed is given twice"),
        ("0,1", ["optimizer.seed=2"], "--seeds and --set optimizer.seed=2 both choose the seed"),
    ],
)
def test_seeds_that_do_not_fit_are_one_line(text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_seeds(text, overrides)


def test_neither_a_training_nor_a_foreign_file_is_touched(
    command_line: CommandLine, fine_tuning: list[object], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "seeds.json").write_text("my seeds of flowers", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="does not hold a table of seeds"):
        run_seeds("finetune", [0], tmp_path / "out", lambda *_: {"loss": 1.0})
    (tmp_path / "out" / "seeds.json").unlink()
    (tmp_path / "out" / "adapt.json").write_text("{}", encoding="utf-8")
    line = command_line.refused(*fine_tuning, "--seeds", "0,1")
    assert "holds adapt.json, a training of its own; choose another --output for --seeds" in line


def test_a_single_seed_has_no_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_seeds("adapt", [4], tmp_path, lambda *_: {"loss": 0.25})
    row = json.loads((tmp_path / "seeds.json").read_text(encoding="utf-8"))["figures"]["loss"]
    assert row == {"values": [0.25], "mean": 0.25, "std": None}
    assert "–" in capsys.readouterr().out


def test_the_seed_of_the_validation_stays_beside_several_seeds() -> None:
    assert read_seeds("0,1", ["validation.seed=3", "finetune.validation.seed=3"]) == [0, 1]
