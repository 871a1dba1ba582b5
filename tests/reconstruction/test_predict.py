"""Prediction of whole scans, and reconstructions on disk."""

import h5py
import numpy as np
import pytest

from ptycho.config import ModelConfig
from ptycho.network.build import build_model
from ptycho.reconstruction import Reconstruction, predict, reconstruct
from tests.helpers import normal, to_numpy


@pytest.fixture
def model(small_scan):
    """A network that does something: its last layers are random."""
    network = build_model(ModelConfig(N=small_scan.N, stages=2, width=4), small_scan.probe)
    rng = np.random.default_rng(0)
    for net in network.nets:
        net.head.weights[0].assign(0.5 * normal(rng, *net.head.weights[0].shape))
    return network


def test_the_batch_size_does_not_matter(model, small_scan):
    whole, positions = predict(model, small_scan, batch=len(small_scan))
    parts, same = predict(model, small_scan, batch=17)
    assert np.abs(whole - 1).max() > 0.05
    np.testing.assert_array_equal(positions, same)
    np.testing.assert_allclose(parts, whole, atol=1e-4 * np.abs(whole).max())


def test_prediction_is_the_network_on_one_group_of_all_frames(model, small_scan):
    """Frame by frame and stage by stage, or as one group on one canvas, as in training: the same patches."""
    from ptycho.reconstruction.stitch import read_patches, stitch

    patches, positions = predict(model, small_scan, batch=32)
    corners = positions - positions.min(axis=0)
    side = int(corners.max()) + small_scan.N
    inputs = dict(
        counts=small_scan.counts[None].astype("float32"),
        mask=np.ones((1, small_scan.N, small_scan.N), "float32"),
        positions=(corners + small_scan.N // 2)[None].astype("int32"),
        fractions=(small_scan.positions - positions)[None].astype("float32"),
        canvas=np.zeros((1, side, side), "float32"),
    )
    canvas = to_numpy(model(inputs)["canvases"][-1])[0]
    ours = stitch(patches, positions, small_scan.probe, align=False)
    bright = ours.coverage > 0.5
    h, w = bright.shape
    # Differences: shifted probes as weights there, the unshifted one here; and the empty start of a merge.
    assert np.abs(canvas[:h, :w] - ours.object)[bright].mean() < 0.01
    assert np.abs(read_patches(canvas, corners, small_scan.N) - patches).mean() < 0.05


def test_withheld_frames_are_not_looked_at(model, small_scan):
    withheld = small_scan.withheld_mask(10)
    first = reconstruct(model, small_scan, withheld=withheld)
    from dataclasses import replace

    counts = small_scan.counts.copy()
    counts[withheld] = 1
    second = reconstruct(model, replace(small_scan, counts=counts), withheld=withheld)
    np.testing.assert_array_equal(first.object, second.object)
    assert first.used == (~withheld).sum()
    assert first.positions_px.shape == (len(small_scan), 2)
    np.testing.assert_allclose(np.diff(first.positions_px, axis=0), np.diff(small_scan.positions, axis=0), atol=1e-9)


def test_positions_are_those_of_the_object(model, small_scan):
    """A flat network output times a marker: reading the object at positions_px finds the patches again."""
    result = reconstruct(model, small_scan)
    patches, positions = predict(model, small_scan)
    rounded = np.floor(result.positions_px + 0.5)
    offset = positions - rounded
    assert (offset == offset[0]).all()
    n = small_scan.N
    errors = []
    for (y, x), patch in zip(rounded.astype(int), patches, strict=True):
        window = result.object[y - n // 2 : y - n // 2 + n, x - n // 2 : x - n // 2 + n]
        assert window.shape == (n, n)
        errors.append(np.abs(window - patch)[8:-8, 8:-8].mean())
    shifted = [
        np.abs(result.object[y - n // 2 + 2 : y - n // 2 + 2 + n, x - n // 2 : x - n // 2 + n] - p)[8:-8, 8:-8].mean()
        for (y, x), p in zip(rounded.astype(int), patches, strict=True)
        if y + 2 - n // 2 + n <= result.object.shape[0]
    ]
    assert np.mean(errors) < np.mean(shifted)


def test_a_reconstruction_survives_the_disk(model, small_scan, tmp_path):
    result = reconstruct(model, small_scan)
    path = result.save(tmp_path / "a" / "reconstruction.h5")
    again = Reconstruction.load(path)
    for name in ("object", "probe", "positions_px", "coverage"):
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name))
    assert (again.used, again.dropped) == (result.used, result.dropped)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="not a reconstruction"):
        Reconstruction.load(tmp_path / "other.h5")


def test_a_scan_of_another_size_is_refused(small_scan):
    from ptycho.simulation.probes import make_probe

    with pytest.raises(ValueError, match="N 24, the model N 32"):
        predict(build_model(ModelConfig(N=32), make_probe(32)), small_scan)
