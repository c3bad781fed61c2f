"""`python -m moegrow` is the command line."""

from moegrow.cli import main

main()
