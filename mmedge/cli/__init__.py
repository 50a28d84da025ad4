"""The command line: data on stdout, words on stderr; exit 0 done, 1 failed, 2 misused."""

from mmedge.cli.app import main

__all__ = ["main"]
