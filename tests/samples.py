"""Where the real samples are: the folder that ``DDE_SAMPLES`` names, else ``shared/data`` beside the checkout.

They are read where they are and never copied.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SAMPLES = Path(os.environ.get("DDE_SAMPLES") or Path(__file__).resolve().parents[2] / "shared" / "data").resolve()
#: Real suites, one folder each.
SUITES = SAMPLES / "suites"


def sample_folder(name: str) -> Path:
    """The folder of some samples, such as ``real`` or ``suites/pythia``; skips the test where it is not there."""
    folder = SAMPLES / name
    if not folder.is_dir():
        pytest.skip(f"the real samples ({folder}; DDE_SAMPLES names another folder) are not here")
    return folder


#: Marks tests of real suites.
needs_suites = pytest.mark.skipif(
    not SUITES.is_dir(), reason=f"the real suites ({SUITES}; DDE_SAMPLES names another folder) are not here"
)
