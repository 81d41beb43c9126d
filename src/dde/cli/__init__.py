"""The command line: ``dde --help``."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line; the entry point ``dde``."""
    # Imported here: `import dde` must not pay for a command line that it does not show.
    from dde.cli.app import app

    app(prog_name="dde")
