"""Runs the command as `python -m sepconv_layers.cli`."""

import sys

from sepconv_layers.cli import main

if __name__ == "__main__":
    sys.exit(main())
