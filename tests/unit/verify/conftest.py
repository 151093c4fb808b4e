"""Tiny saved models, each saved once, and a way to verify them against planted faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from encoders import FLOAT32
from planting import Planted, Saved, Vectorize

from llama2vec.cli import main
from llama2vec.config import PROMPT_RECIPES, EncoderSettings
from llama2vec.model.encoder import Encoder
from llama2vec.verify.verification import Verification, verify


@pytest.fixture(scope="session")
def saved_models(
    save_model: Callable[..., Path], make_model: Callable[..., Any], make_tokenizer: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Saved]:  # fmt: skip
    """Return a model by its kind, saved once; queries are read with NEXT, passages with SELF."""
    made: dict[str, Saved] = {}

    def get(kind: str) -> Saved:
        if kind not in made:
            root = tmp_path_factory.mktemp(kind)
            name, recipe = kind.split("-", 1)
            # The longest golden text has 600 letters, which are nearly as many tokens here.
            changes = {"num_hidden_layers": 4, "max_position_embeddings": 1024}
            if name == "gpt2":
                changes = {"n_layer": 4, "n_positions": 1024}
            save_model(root / "base", name, **changes)
            if recipe == "no-bos":
                make_tokenizer(bos=False).save_pretrained(root / "base")
            encoder = Encoder.load(
                root / "base", settings=FLOAT32, prompts=PROMPT_RECIPES.get(recipe),
                encoder=EncoderSettings(
                    query_prompt="next", query_max_tokens=24, passage_max_tokens=60,
                    layers=3 if recipe == "layers" else 1, pooling="mean" if recipe == "mean" else "slots",
                ),
            )  # fmt: skip
            made[kind] = Saved.open(encoder.save(root / "saved"))
        return made[kind]

    return get


@pytest.fixture(scope="session")
def verified() -> Callable[..., Verification]:
    """Return a function that verifies a model against a planted way of embedding."""

    def run(saved: Saved, give: Vectorize, *, live: bool = True, tolerance: float | None = None) -> Verification:
        backend = Planted(give, live=live)
        return verify(saved.folder, saved.golden, backend, tolerance=tolerance, device="cpu")  # type: ignore[arg-type]

    return run


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["verify", *(str(argument) for argument in arguments), "--device", "cpu"])
        out, err = capfd.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


@pytest.fixture
def refused(cli: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        code, out, err = cli(*arguments)
        assert (code, out) == (2, ""), (out, err)
        assert "Traceback" not in err
        lines = [line for line in err.splitlines() if line.startswith("llama2vec: ")]
        assert len(lines) == 1, err
        return lines[0]

    return run
