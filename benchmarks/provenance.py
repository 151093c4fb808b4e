"""What every results file says of where its numbers come from."""

from __future__ import annotations

import sys
from typing import Any

from llama2vec.manifest import code_version, machine, versions


def made_by() -> dict[str, Any]:
    """Return the machine, the versions, the commit and the command of this run."""
    return {"machine": machine(), "versions": versions(), "code": code_version(), "command": " ".join(sys.argv)}
