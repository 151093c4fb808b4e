"""What runs only in `make stacks`, which installs other people's stacks first; there a missing one is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, ModelSettings
from llama2vec.model.encoder import Encoder

RECIPES = Path(__file__).parent.parent.parent / "examples" / "stacks"
FLOAT32 = ModelSettings(dtype="float32", device="cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.slow)
        if not os.environ.get("LLAMA2VEC_STACKS"):
            item.add_marker(pytest.mark.skip(reason="other people's stacks: `make stacks` installs and runs them"))


@pytest.fixture(scope="session")
def new_encoder(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a maker of saved encoders on tiny random models; any two of them differ in vectors."""

    def make(name: str, recipe: str, seed: int = 0, **settings: Any) -> Path:
        home = tmp_path_factory.mktemp(name)
        base = save_model(home / "base", seed=seed, max_position_embeddings=1024)
        given = EncoderSettings.model_validate({"query_prompt": "next", **settings})
        encoder = Encoder.load(base, settings=FLOAT32, prompts=PROMPT_RECIPES[recipe], encoder=given)
        return encoder.save(home / name)

    return make


@pytest.fixture(scope="session")
def model(new_encoder: Callable[..., Path]) -> Path:
    """The encoder that is hardest to get right: two prompts, eight slots, two layers."""
    return new_encoder("tiny", "released", layers=2)


@pytest.fixture(scope="session")
def other_model(new_encoder: Callable[..., Path]) -> Path:
    return new_encoder("other", "paper", seed=1)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Caches of other libraries stay out of the user's home, and nothing asks the network."""
    caches = tmp_path_factory.mktemp("caches")
    names = ("HF_HOME", "HF_MODULES_CACHE", "LLAMA_INDEX_CACHE_DIR")
    return {
        **os.environ,
        **{name: str(caches / name.lower()) for name in names},
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(RECIPES),
    }


@pytest.fixture
def recipe(environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a recipe, with some of its lines changed, in a fresh process."""

    def run(name: str, *arguments: object, change: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        text = (RECIPES / name).read_text(encoding="utf-8")
        for old, new in (change or {}).items():
            assert old in text
            text = text.replace(old, new)
        script = tmp_path / name
        script.write_text(text, encoding="utf-8")
        return subprocess.run(
            [sys.executable, str(script), *map(str, arguments)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def served(model: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of `llama2vec serve` with the model."""
    command = [sys.executable, "-m", "llama2vec.cli", "serve", "--model", str(model), "--dtype", "float32"]
    with subprocess.Popen(
        [*command, "--device", "cpu", "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout
            # It says where it is once it answers.
            yield next(line.split()[-1] for line in server.stdout if line.startswith("Serving"))
        finally:
            server.terminate()
