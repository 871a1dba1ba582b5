"""Does aligning the phases of patches help a network of single frames? Half a minute of training.

`PTYCHO_DATA=... python benchmarks/alignment.py` prints the SNR of the stitched object with and without.
"""

import os
from pathlib import Path

import numpy as np

from ptycho import ModelConfig, TrainingConfig, build_model, compare_objects, read_scan, train
from ptycho.reconstruction import Stream, stitch

if __name__ == "__main__":
    folder = Path(os.environ["PTYCHO_DATA"])
    scans = {name: read_scan(folder / f"sim64_{name}.npz") for name in ("train", "test")}
    settings = ModelConfig(N=64, gridsize=1, architecture="single", stages=1, width=32)
    model = build_model(settings, scans["train"].probe)
    train(model, scans["train"], TrainingConfig(total_frames=6000))
    for name, scan in scans.items():
        stream = Stream(model, scan.positions, mask=scan.mask)
        pieces = [piece for frame, counts in enumerate(scan.counts) for piece in stream.add(frame, counts)]
        pieces += stream.finish()
        patches, origins = (np.stack([getattr(piece, name) for piece in pieces]) for name in ("values", "corner"))
        for align in (False, True):
            image = stitch(patches, origins + scan.N // 2, scan.probe, align=align).object
            print(f"sim64_{name}, align={align}: {compare_objects(image, scan.object).snr_db:.2f} dB")
