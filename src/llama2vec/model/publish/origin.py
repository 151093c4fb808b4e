"""Where a model comes from: the base LLM, its license, and the training stages since."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub.repocard import metadata_load

from llama2vec.artifact import read_object
from llama2vec.errors import ModelError
from llama2vec.manifest import MANIFEST_FILE, unsealed
from llama2vec.model.contract import CONTRACT_FILE
from llama2vec.model.packaged import PACKAGED

CARD_FILE = "README.md"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_KNOWN_LICENSES = {model.hub: model.license for model in PACKAGED.values()}

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from."""

    base: str = ""  # Hub id of the original LLM, or the name of its folder or file; "" if unknown
    license: str = ""  # License of the base, as the hub spells it; "" if unknown
    manifests: tuple[Manifest, ...] = ()  # Manifests of the training stages since, oldest first
    loaded_as: str = field(default="", compare=False)  # What loads the base on this machine; "" if unknown

    @property
    def hub_base(self) -> str:
        """The base if it is a hub id, else ""."""
        return self.base if _HUB_ID.fullmatch(self.base) else ""

    def followed_by(self, manifest: Manifest) -> Origin:
        """Return the origin of what one more stage made."""
        return replace(self, manifests=(*self.manifests, manifest))

    def of_stage(self, stage: str) -> list[Manifest]:
        """Return the manifests of one kind of stage."""
        return [manifest for manifest in self.manifests if manifest.get("stage") == stage]


def origin_of(name: str) -> Origin:
    """Follow the manifests of a model, and of the models it was made from, back to the base.

    Raises:
        ModelError: A manifest was changed after it was written.
    """
    manifests: list[Manifest] = []
    beside, seen = Path(), set[Path]()
    while True:
        folder = _local_model(name, beside)
        if folder is None or not (folder / CONTRACT_FILE).is_file():
            public = public_name(name)
            known = _front_matter(folder / CARD_FILE).get("license") if folder else _KNOWN_LICENSES.get(public)
            return Origin(public, str(known or ""), tuple(manifests), str(folder or name))
        manifest = read_object(folder / MANIFEST_FILE)
        if not manifest or folder.resolve() in seen:
            # An encoder without a manifest names its base in its own card.
            card = _front_matter(folder / CARD_FILE)
            return Origin(str(card.get("base_model") or ""), str(card.get("license") or ""), tuple(manifests))
        if (manifest := unsealed(manifest)) is None:
            raise ModelError(f"{folder / MANIFEST_FILE} was changed after it was written; restore it, or train again")
        manifests.insert(0, manifest)
        seen.add(folder.resolve())
        name, beside = str(manifest.get("settings", {}).get("model", {}).get("name", "")), folder.parent


def _local_model(name: str, beside: Path) -> Path | None:
    """Return the folder that a model's name means, also after a whole run was moved."""
    if not name or name in PACKAGED:
        return None
    found = Path(name).expanduser()
    return next((path for path in (found, beside / found.name) if (path / "config.json").is_file()), None)


def public_name(name: str) -> str:
    """Return a model's name without the folders of this machine: its hub id, or the name of its folder or file."""
    if name in PACKAGED:
        return PACKAGED[name].hub
    return name if _HUB_ID.fullmatch(name) and not Path(name).exists() else Path(name).name


def _front_matter(path: Path) -> dict[str, Any]:
    try:
        return metadata_load(path) or {}
    # A card of another author may be missing, binary, or have broken YAML.
    except (OSError, ValueError, yaml.YAMLError):
        return {}
