"""Everything in this folder at length, by one command: ``python tests/faults/run.py``, some forty minutes.

``--share 0.1`` does a tenth of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent

#: Scripts, with the option that says how much, and how much is the whole.
SCRIPTS = (
    ("dict_texts.py", "--texts", 10_000_000, []),
    ("dict_texts.py", "--texts", 1_000_000, ["--sanitize"]),
    ("damaged_files.py", "--files", 2_000, []),
    ("killed_fills.py", "--kills", 300, []),
    ("lost_servers.py", "--tries", 2_000, []),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--share", type=float, default=1.0)
    share = parser.parse_args().share
    failed = []
    for script, option, whole, more in SCRIPTS:
        print(f"== {script} {' '.join(more)}", flush=True)
        amount = max(round(whole * share), 1)
        if subprocess.run([sys.executable, str(FOLDER / script), option, str(amount), *more], check=False).returncode:
            failed.append(script)
    print(f"failed: {', '.join(failed)}" if failed else "nothing failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
