"""``python -m mmedge``: the command line."""

from mmedge.cli import main

main()
