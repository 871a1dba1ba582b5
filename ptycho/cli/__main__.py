"""``python -m ptycho.cli``."""

from ptycho.cli.app import main

main()
