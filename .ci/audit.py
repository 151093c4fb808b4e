"""Check the installed packages for known vulnerabilities with pip-audit; `make check` runs this.

A package index without the advisory database makes pip-audit skip every package and exit 0. So one release with a
published advisory is looked up first: where even that comes back clean, the audit says that it was skipped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

KNOWN_VULNERABLE = "jinja2==2.11.2"  # CVE-2020-28493


def audit(*options: str) -> list[dict[str, Any]]:
    """Return what pip-audit says about each package; empty where it cannot reach its database."""
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off", *options]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(answer.stdout)["dependencies"]
    except (ValueError, KeyError):
        return []
    return packages


def main() -> None:
    """Print one line per vulnerability and exit with 1 if there is any."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(KNOWN_VULNERABLE, encoding="utf-8")
        probe = audit("--disable-pip", "--no-deps", f"--requirement={requirements}")
    if not any(package.get("vulns") for package in probe):
        print("pip-audit: skipped, the vulnerability database of PyPI cannot be reached from here")
        return
    packages = audit("--local", "--skip-editable")
    found = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in "
        f"{', '.join(vulnerability['fix_versions']) or 'no release'}"
        for package in packages
        for vulnerability in package.get("vulns", [])
    ]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    print("\n".join(found) or f"pip-audit: no known vulnerability in {len(packages) - len(unknown)} packages")
    if unknown:
        print(f"pip-audit: not audited: {', '.join(unknown)}")
    if found or not packages:
        sys.exit(1)


if __name__ == "__main__":
    main()
