"""The command line: ``dde --help``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the entry point ``dde``."""
    # Imported here, so that importing dde does not import the command line. Signals are handled before the commands are
    # imported, which takes a while.
    from dde.cli.signals import end_process, exit_on_signals
    from dde.cli.streams import checked_streams

    is_program = sys._getframe(1).f_globals.get("__name__") == "__main__"
    with exit_on_signals():
        try:
            with checked_streams():
                from dde.cli.app import app

                app(prog_name="dde")
        except SystemExit as ended:
            if is_program:
                end_process(ended.code)
            raise
