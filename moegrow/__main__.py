"""`python -m moegrow` is the command line."""

import sys
from pathlib import Path

# Python looks for modules in the current folder first, which may be a stranger's checkpoint, with
# a numpy.py in it. What runs already is moegrow's own.
sys.path[:] = [entry for entry in sys.path if entry and Path(entry) != Path.cwd()]

from moegrow.cli.main import main  # noqa: E402

main()
