"""From a trained network to an image: tiles and patches into one object."""

from ptycho.data.reconstruction import Reconstruction
from ptycho.reconstruction.distributed import predict_on
from ptycho.reconstruction.predict import predict
from ptycho.reconstruction.probe_retrieval import find_probe
from ptycho.reconstruction.reconstruct import as_grown, reconstruct
from ptycho.reconstruction.stitch import Stitched, stitch
from ptycho.reconstruction.stream import Stream

__all__ = [
    "Reconstruction",
    "Stitched",
    "Stream",
    "as_grown",
    "find_probe",
    "predict",
    "predict_on",
    "reconstruct",
    "stitch",
]
