"""The network: maps diffraction patterns to object patches, with the physics doing what convolutions learn badly."""
