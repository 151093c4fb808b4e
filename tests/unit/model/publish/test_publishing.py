"""The files that open a saved encoder elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from llama2vec.model.publish.publishing import (
    MODULE_FILE,
    add_public_files,
    module_source,
    write_sentence_transformers_files,
)


def test_sentence_transformers_finds_one_module_that_is_our_own_source(tmp_path: Path) -> None:
    write_sentence_transformers_files(tmp_path)
    assert (tmp_path / MODULE_FILE).read_bytes() == module_source()
    modules = json.loads((tmp_path / "modules.json").read_text(encoding="utf-8"))
    assert [(module["path"], module["type"]) for module in modules] == [("", "portable_encoder.PortableEncoder")]
    settings = json.loads((tmp_path / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    assert settings["similarity_fn_name"] == "cosine"
    assert set(settings["prompts"]) == {"query", "document"}


def test_a_card_with_its_own_author_at_the_destination_stays(save: Callable[..., Path], tmp_path: Path) -> None:
    folder, destination = save(), tmp_path / "destination"
    destination.mkdir()
    (folder / "README.md").unlink()
    add_public_files(folder, destination, "base")
    assert "Written by llama2vec" in (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").unlink()
    (destination / "README.md").write_text("# Mine\n", encoding="utf-8")
    add_public_files(folder, destination, "base")
    assert not (folder / "README.md").exists()
    assert (destination / "README.md").read_text(encoding="utf-8") == "# Mine\n"
