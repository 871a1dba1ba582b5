"""From a trained network to an image: predict patches, stitch them into the object."""

from ptycho.reconstruction.predict import predict
from ptycho.reconstruction.result import Reconstruction, reconstruct
from ptycho.reconstruction.stitch import Stitched, stitch

__all__ = ["Reconstruction", "Stitched", "predict", "reconstruct", "stitch"]
