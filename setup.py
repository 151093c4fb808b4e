"""Put recipes, models and stack examples into the wheel; everything else stands in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# As in src/llama2vec/shipped.py.
SHIPPED = {"recipes": "recipes/*.toml", "stacks": "examples/stacks/*.py", "models": "models/*/*"}


class BuildWithRecipes(build_py):
    """Copies the shipped files beside the package; an editable install reads them in the checkout."""

    def run(self) -> None:
        """Build the package, then copy."""
        super().run()
        if self.editable_mode:
            return
        for folder, pattern in SHIPPED.items():
            home = Path(self.build_lib, "llama2vec", "shipped", folder)
            for path in sorted(Path(__file__).parent.glob(pattern)):
                target = home / path.parent.name if folder == "models" else home
                self.mkpath(str(target))
                self.copy_file(str(path), str(target / path.name))


setup(cmdclass={"build_py": BuildWithRecipes})
