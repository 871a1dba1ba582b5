"""Studies: many reconstructions that differ in a few settings, run, kept and compared."""
