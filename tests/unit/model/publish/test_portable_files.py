"""The files by which sentence-transformers opens a saved encoder; test_portable_encoder.py opens it."""

from __future__ import annotations

import json
from pathlib import Path

from llama2vec.model.publish.portable_files import MODULE_FILE, module_source, write_sentence_transformers_files


def test_sentence_transformers_finds_one_module_that_is_our_own_source(tmp_path: Path) -> None:
    write_sentence_transformers_files(tmp_path)
    assert (tmp_path / MODULE_FILE).read_bytes() == module_source()
    modules = json.loads((tmp_path / "modules.json").read_text(encoding="utf-8"))
    assert [(module["path"], module["type"]) for module in modules] == [("", "portable_encoder.PortableEncoder")]
    settings = json.loads((tmp_path / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    assert settings["similarity_fn_name"] == "cosine"
    assert set(settings["prompts"]) == {"query", "document"}
