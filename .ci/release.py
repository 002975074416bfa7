"""Refuses a release whose tag, pyproject.toml and CHANGELOG.md name different versions.

python3 .ci/release.py v1.2.3
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def read_versions(root: Path) -> dict[str, str]:
    """File -> the version that it names; of the changelog its first heading."""
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    found = {
        "pyproject.toml": re.search(r'^version = "(.+)"$', project, re.MULTILINE),
        "CHANGELOG.md": re.search(r"^## (.+)$", changelog, re.MULTILINE),
    }
    return {name: match[1] if match else "no version" for name, match in found.items()}


def main(arguments: list[str], root: Path = ROOT) -> int:
    """0 when all agree; otherwise 1, with all three on standard error."""
    if len(arguments) != 1:
        sys.stderr.write(f"{__doc__}")
        return 2
    tag = arguments[0].removeprefix("v")
    versions = read_versions(root)
    if set(versions.values()) == {tag}:
        return 0
    named = ", ".join(f"{name} names {version}" for name, version in versions.items())
    sys.stderr.write(f"The tag names {tag}, {named}. All three must be the same.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
