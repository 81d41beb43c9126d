"""The command line: ``dde --help``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the entry point ``dde``."""
    # Imported here: `import dde` must not pay for a command line that it does not show. Signals first: the commands
    # take their time to import.
    from dde.cli.streams import checked_streams, end_process, ends_in_one_line

    is_program = sys._getframe(1).f_globals.get("__name__") == "__main__"
    with ends_in_one_line():
        try:
            with checked_streams():
                from dde.cli.app import app

                app(prog_name="dde")
        except SystemExit as ended:
            if is_program:
                end_process(ended.code)
            raise
