"""Does aligning the phases of patches help a network that takes each frame alone? Half a minute of training.

`PTYCHO_DATA=... python benchmarks/alignment.py` prints the SNR of the stitched object with and without.
"""

import os
from pathlib import Path

from ptycho import ModelConfig, TrainingConfig, build_model, compare_objects, read_scan, train
from ptycho.reconstruction import predict, stitch

if __name__ == "__main__":
    folder = Path(os.environ["PTYCHO_DATA"])
    scans = {name: read_scan(folder / f"sim64_{name}.npz") for name in ("train", "test")}
    model = build_model(ModelConfig(N=64, gridsize=1, stages=1, width=32), scans["train"].probe)
    train(model, scans["train"], TrainingConfig(total_frames=6000))
    for name, scan in scans.items():
        patches, positions = predict(model, scan)
        for align in (False, True):
            image = stitch(patches, positions, scan.probe, align=align).object
            print(f"sim64_{name}, align={align}: {compare_objects(image, scan.object).snr_db:.2f} dB")
