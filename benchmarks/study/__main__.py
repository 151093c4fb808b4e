"""Start the study, as ``python benchmarks/study``."""

import sys
from pathlib import Path

# Python puts the started folder itself on the path; the package and its neighbors are found from the one above.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from study.command import main  # noqa: E402

sys.exit(main())
