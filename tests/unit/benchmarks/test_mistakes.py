"""No results file of a benchmark holds scores of two models, two settings or two samples."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from encoders import encoder_for

from llama2vec.config import EncoderSettings
from llama2vec.errors import ConfigError, OutputExistsError


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what runs a script that must refuse its output and leave it as it was."""

    def run(main: Callable[[list[str]], None], output: Path, command: list[object]) -> str:
        before = output.read_bytes()
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(part) for part in command])
        assert stopped.value.code == 2
        assert output.read_bytes() == before
        return capsys.readouterr().err

    return run


@pytest.fixture
def models(llama_folder: Path, tmp_path: Path) -> list[Path]:
    """Two encoders that differ in one setting."""
    found = []
    for layers in (1, 2):
        folder = encoder_for(llama_folder, settings=EncoderSettings(layers=layers)).save(tmp_path / f"of-{layers}")
        (folder / "manifest.json").write_text(json.dumps({"layers": layers}), encoding="utf-8")
        found.append(Path(folder))
    return found


def test_results_are_kept_for_the_same_settings_alone(tmp_path: Path) -> None:
    from benchmarks.mistakes import results_so_far

    output = tmp_path / "new" / "out.json"
    found = results_so_far(output, {"model": "a"}, "rows")
    assert found == {"settings": {"model": "a"}, "rows": {}}
    found["rows"]["one"] = 1
    output.write_text(json.dumps(found), encoding="utf-8")
    assert results_so_far(output, {"model": "a"}, "rows") == found
    with pytest.raises(ConfigError, match=r"was made with other settings \(model\); choose another --output"):
        results_so_far(output, {"model": "b"}, "rows")
    output.write_text(json.dumps({"rows": {"one": 1}}), encoding="utf-8")  # of a script that noted no settings
    with pytest.raises(ConfigError, match=r"other settings \(model\)"):
        results_so_far(output, {"model": "a"}, "rows")
    output.write_text("[]", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="does not hold results"):
        results_so_far(output, {"model": "a"}, "rows")


def test_layers_of_two_models_stay_apart(
    models: list[Path], toy_data: Path, toy_file: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    from benchmarks.quality import fewer_layers

    output = tmp_path / "layers.json"
    command = ["--data", toy_data, "--output", output, "--keep", 2, "--skip-speed", "--budget", toy_file, "--model"]
    fewer_layers.main([str(part) for part in [*command, models[0]]])
    assert list(json.loads(output.read_text(encoding="utf-8"))["depths"]) == ["2"]
    assert "was made with other settings (contract_hash)" in refused(fewer_layers.main, output, [*command, models[1]])


def test_scores_of_two_adapted_models_stay_apart(
    models: list[Path], toy_data: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    from benchmarks.quality import systems

    output = tmp_path / "quality.json"
    command = ["--data", toy_data, "--output", output, "--tasks", "one", "--max-tokens", 16, "--systems"]
    systems.main([str(part) for part in [*command, "adapted", "--adapted", models[0]]])
    systems.main([str(part) for part in [*command, "bm25"]])
    assert set(json.loads(output.read_text(encoding="utf-8"))["tasks"]["one"]) == {"adapted", "bm25"}
    other = [*command, "adapted", "--adapted", models[1]]
    assert "has scores of other models (adapted)" in refused(systems.main, output, other)
    assert "other settings" in refused(systems.main, output, [*command, "bm25", "--max-queries", 3])
    moved = tmp_path / "data" / "one"
    moved.parent.mkdir()
    moved.symlink_to(toy_data / "two")
    elsewhere = [*command, "bm25", "--data", moved.parent]
    assert "has scores of other data (one)" in refused(systems.main, output, elsewhere)


def test_variants_of_two_models_stay_apart(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.quality import adaptation_variants

    for name in ("wiki/train.jsonl.gz", "stsb/en-dev.tsv", "cranfield/corpus.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(b""))
    found = {"settings": [], "sts": 0.5, "retrieval": 0.5, "centred": 0.5}
    monkeypatch.setattr(adaptation_variants, "run_variant", lambda *_: found)
    output = tmp_path / "variants.json"
    command = ["--data", tmp_path, "--output", output, "--only", "base", "--base"]
    adaptation_variants.main([str(part) for part in [*command, "one"]])
    assert "was made with other settings (base)" in refused(adaptation_variants.main, output, [*command, "two"])
    (tmp_path / "cranfield" / "corpus.jsonl").write_text("other", encoding="utf-8")
    assert "was made with other settings (data)" in refused(adaptation_variants.main, output, [*command, "one"])


def test_each_sample_of_a_set_has_a_corpus_of_its_own(toy_data: Path, toy: Any, tmp_path: Path) -> None:
    from benchmarks.quality import warm_start
    from benchmarks.study.sets import sampled_set

    small = sampled_set(toy_data / "one", toy.sets)
    large = replace(small, passages=[*small.passages, *sampled_set(toy_data / "two", toy.sets).passages[:1]])
    files = [warm_start.corpus_of(sample, tmp_path) for sample in (small, large, small)]
    assert files[0] == files[2] != files[1]
    assert [len(file.read_text(encoding="utf-8").splitlines()) for file in files[:2]] == [
        len(small.passages),
        len(large.passages),
    ]


def test_kept_vectors_are_of_one_number_format(tmp_path: Path) -> None:
    from benchmarks.mistakes import check_format

    for _ in range(2):
        check_format(tmp_path / "kept", "float32")
    with pytest.raises(
        ConfigError, match="kept keeps vectors computed in float32, and this model computes in bfloat16"
    ):
        check_format(tmp_path / "kept", "bfloat16")
