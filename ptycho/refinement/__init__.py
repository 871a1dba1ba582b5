"""Refinement: an image made as good as the photons allow."""
