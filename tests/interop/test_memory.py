"""Scans and results in the memory of other programs, with those programs themselves (`make test-interop`)."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ptycho.data.reconstruction import Reconstruction
from ptycho.formats import read_scan
from ptycho.interop.hyperspy import scan_of_signal, signals_of
from ptycho.interop.napari import get_reader, layers_of
from ptycho.interop.py4dstem import scan_of_datacube
from ptycho.io import BadFile
from ptycho.output.emd import Image, save_emd

STEP_NM, PIXEL_MRAD, KV, MRAD = 0.05, 1.5, 80.0, 20.0
OBJECT_PIXEL_NM = 2.5


@pytest.fixture
def frames() -> np.ndarray:
    """4 x 5 frames of 24 x 24 counts: a disc in the middle."""
    y, x = np.indices((24, 24)) - 12
    return np.random.default_rng(0).poisson(40.0 * (np.hypot(y, x) < 7), (4, 5, 24, 24)).astype("uint16")


@pytest.fixture
def result() -> Reconstruction:
    rng = np.random.default_rng(1)
    field = lambda *shape: (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype("complex64")
    made = Reconstruction.bare(field(40, 50), field(2, 24, 24), rng.uniform(12, 28, (9, 2)))
    from dataclasses import replace

    return replace(
        made,
        pixel_size_m=OBJECT_PIXEL_NM * 1e-9,
        origin_px=np.array([-3, 7]),
        uncertainty=np.full((40, 50), 0.1, "float32"),
    )


def signal_of(frames: np.ndarray) -> Any:
    hs = pytest.importorskip("hyperspy.api", reason="HyperSpy is not installed: make test-interop")
    signal = hs.signals.Signal2D(frames)
    for axis, units, scale in zip(
        signal.axes_manager._axes, ("nm", "nm", "mrad", "mrad"), (STEP_NM, STEP_NM, PIXEL_MRAD, PIXEL_MRAD), strict=True
    ):
        axis.units, axis.scale = units, scale
    signal.metadata.set_item("Acquisition_instrument.TEM", dict(beam_energy=KV, convergence_angle=MRAD))
    return signal


def test_a_hyperspy_signal_is_the_scan_of_the_file_it_saves(frames: np.ndarray, tmp_path: Path) -> None:
    signal = signal_of(frames)
    scan = scan_of_signal(signal)
    assert scan.beam is not None and scan.beam.energy_eV == pytest.approx(KV * 1e3)
    assert len(scan) == 20 and scan.N == 24
    # Rows of 5 frames, one step apart, in object pixels of wavelength / (N x the angle of a detector pixel).
    assert scan.pixel_size_m == pytest.approx(scan.beam.wavelength_m / (24 * PIXEL_MRAD * 1e-3), rel=1e-6)
    steps = np.diff(scan.positions.reshape(4, 5, 2), axis=1)[..., 1]
    np.testing.assert_allclose(steps, STEP_NM * 1e-9 / scan.pixel_size_m, rtol=1e-6)
    signal.save(tmp_path / "signal.hspy")
    again = read_scan(tmp_path / "signal.hspy")
    np.testing.assert_array_equal(again.counts, scan.counts)
    np.testing.assert_allclose(again.positions, scan.positions)
    np.testing.assert_allclose(again.probe, scan.probe)


def test_what_a_signal_does_not_tell_is_asked_for_and_can_be_given(frames: np.ndarray) -> None:
    signal = signal_of(frames)
    for axis in signal.axes_manager.navigation_axes:
        axis.units = ""
    with pytest.raises(BadFile, match="--scan-step"):
        scan_of_signal(signal)
    assert len(scan_of_signal(signal, scan_step=(STEP_NM, "nm"))) == 20


def test_results_are_signals_of_their_size(result: Reconstruction) -> None:
    pytest.importorskip("hyperspy.api", reason="HyperSpy is not installed: make test-interop")
    signals = signals_of(result)
    assert set(signals) == {"object", "probe", "uncertainty"}
    np.testing.assert_array_equal(signals["object"].data, result.object)
    x, y = signals["object"].axes_manager.signal_axes  # x first
    assert (x.units, x.scale) == ("nm", pytest.approx(OBJECT_PIXEL_NM))
    assert (x.offset, y.offset) == (pytest.approx(7 * OBJECT_PIXEL_NM), pytest.approx(-3 * OBJECT_PIXEL_NM))
    assert signals["probe"].axes_manager.navigation_shape == (2,)


def test_images_that_are_exported_open_upright_with_their_axes(tmp_path: Path) -> None:
    hs = pytest.importorskip("hyperspy.api", reason="HyperSpy is not installed: make test-interop")
    stack = np.random.default_rng(2).normal(size=(3, 20, 30)).astype("float32")
    images = dict(phase=Image(stack[0], "rad"), slices=Image(stack, "rad", 2e-9))
    save_emd(images, OBJECT_PIXEL_NM * 1e-9, tmp_path / "object.emd")
    phase, slices = hs.load(str(tmp_path / "object.emd"))
    np.testing.assert_array_equal(phase.data, stack[0])
    np.testing.assert_array_equal(slices.data, stack)
    steps = [(axis.name, axis.units, axis.scale) for axis in slices.axes_manager._axes]
    assert [(name, unit) for name, unit, _ in steps] == [("z", "nm"), ("y", "nm"), ("x", "nm")]
    assert [step for *_, step in steps] == pytest.approx([2.0, OBJECT_PIXEL_NM, OBJECT_PIXEL_NM])


def cube_of(frames: np.ndarray, real: bool) -> Any:
    """A DataCube of py4DSTEM, or what it is used as: ``data``, ``name`` and a calibration that is asked by key."""
    facts = dict(R_pixel_size=10 * STEP_NM, R_pixel_units="A", Q_pixel_size=PIXEL_MRAD, Q_pixel_units="mrad")
    facts |= dict(QR_rotation=np.deg2rad(30.0), QR_flip=True)
    if not real:
        return SimpleNamespace(data=frames, name="cube", calibration=facts)
    py4dstem = pytest.importorskip(
        "py4DSTEM", reason="py4DSTEM is not installed: make test-interop", exc_type=Exception
    )
    cube = py4dstem.DataCube(data=frames)
    for name, value in facts.items():
        cube.calibration[name] = value
    return cube


@pytest.mark.parametrize("real", [False, True])
def test_a_datacube_is_the_scan_of_its_calibration(frames: np.ndarray, real: bool) -> None:
    cube = cube_of(frames, real)
    with pytest.raises(BadFile, match="--voltage-kv"):
        scan_of_datacube(cube)
    scan = scan_of_datacube(cube, voltage_kv=KV, semiangle_mrad=MRAD)
    # Frames are transposed against the scan; positions turned by 30 degrees.
    np.testing.assert_array_equal(scan.counts[1], frames[0, 1].T)
    first, second = scan.positions[:2] * scan.pixel_size_m * 1e9
    assert np.linalg.norm(second - first) == pytest.approx(STEP_NM, rel=1e-6)
    # A step along x, turned: y' = y cos a - x sin a, x' = y sin a + x cos a.
    np.testing.assert_allclose((second - first) / STEP_NM, [-np.sin(np.pi / 6), np.cos(np.pi / 6)], atol=1e-6)


def test_layers_lie_where_they_belong(result: Reconstruction, tmp_path: Path) -> None:
    path = result.save(tmp_path / "reconstruction.h5")
    read = get_reader(str(path))
    assert read is not None
    layers = {options["name"]: (data, options, kind) for data, options, kind in read(str(path))}
    assert set(layers) == {"phase", "amplitude", "uncertainty", "probe", "positions"}
    phase, options, kind = layers["phase"]
    np.testing.assert_allclose(phase, np.angle(result.object))
    assert kind == "image" and options["units"] == ("nm", "nm")
    assert options["scale"] == pytest.approx((OBJECT_PIXEL_NM,) * 2)
    assert options["translate"] == pytest.approx((-3 * OBJECT_PIXEL_NM, 7 * OBJECT_PIXEL_NM))
    (tmp_path / "other.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    for other in (tmp_path / "other.h5", tmp_path / "nothing.h5", tmp_path):
        assert get_reader(str(other)) is None
    assert get_reader([str(path)]) is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pydantic, in napari
def test_napari_takes_the_layers_and_the_manifest(result: Reconstruction, tmp_path: Path) -> None:
    layers = pytest.importorskip("napari.layers", reason="napari is not installed: make test-interop")
    npe2 = pytest.importorskip("npe2", reason="npe2 is not installed: make test-interop")
    made = [layers.Layer.create(*layer) for layer in layers_of(result)]
    assert [layer.name for layer in made][:2] == ["phase", "amplitude"]
    assert made[0].scale == pytest.approx((OBJECT_PIXEL_NM,) * 2)
    manifest = npe2.PluginManifest.from_file(Path(__file__).parents[2] / "ptycho" / "interop" / "napari.yaml")
    manifest.validate_imports()
    assert manifest.contributions.readers
