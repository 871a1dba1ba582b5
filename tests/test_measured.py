"""Measured data, as they come: from a file with a corner-centred star and a rough probe to an image."""

import numpy as np
import pytest

from ptycho.config import RunConfig
from ptycho.data.scan import illumination
from ptycho.pipelines.open import open_scan
from ptycho.pipelines.precision import Precision
from ptycho.pipelines.reconstruct import reconstruct_run

NEITHER = Precision(half_sets=False, uncertainty=False)


@pytest.fixture
def star(data_folder):
    said = []
    scan = open_scan(data_folder / "siemens-star-small.npz.bz2", said.append)
    return scan, said


def test_what_was_done_to_the_file_is_said(star):
    scan, said = star
    assert any("zero frequency was at the corner" in line for line in said)
    assert any("rescaled" in line and "sought along" in line for line in said)
    # No mask: a flat object gives the photons of the probe.
    assert illumination(scan.probe).sum() == pytest.approx(scan.mean_counts, rel=1e-4)


@pytest.mark.slow
def test_a_few_epochs_beat_a_flat_object_on_withheld_frames(star, tmp_path):
    """100 frames, cropped to 64 pixels, 4 epochs, one stage: on held-out frames better than the flat object with the
    same file's probe."""
    from ptycho.data.reconstruction import Reconstruction
    from ptycho.evaluation import frame_error

    scan = star[0].subset(np.arange(100)).cropped(64)
    run = RunConfig(model=dict(stages=1), training=dict(epochs=4))
    outcome = reconstruct_run(scan, tmp_path, run, hold_out_every=10, auto=False, precision=NEITHER)
    result = outcome.result
    flat = Reconstruction.bare(np.ones_like(result.object), scan.probe, result.positions_px)
    floor = frame_error(flat, scan.counts, range(0, 100, 10))
    assert outcome.held_out_error < 0.7 * floor
    assert outcome.shot_noise < outcome.held_out_error
