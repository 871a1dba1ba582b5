"""Measured data: the `Scan` with its frames and beam, and reconstructions."""
