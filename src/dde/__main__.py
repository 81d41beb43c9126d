"""``python -m dde`` is the command ``dde``, also where the script is not on the PATH."""

from dde.cli import main

if __name__ == "__main__":
    main()
