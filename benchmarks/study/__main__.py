"""Start the study, as ``python benchmarks/study``."""

import sys
from pathlib import Path

# Python puts the started folder on the path; the package itself and its neighbors are in the parent folder.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from study.command import main  # noqa: E402

main()
