"""Scans and results in the memory of other programs. Each module imports its program only when it is called."""
