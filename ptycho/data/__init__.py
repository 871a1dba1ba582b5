"""Measured data: the `Scan`, what is wrong with it (`doctor`), the files it comes from (`formats`)."""
