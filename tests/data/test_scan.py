"""A scan measures itself, rejects what cannot be one, and leaves the caller's arrays alone."""

import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho.config import NearField
from ptycho.data.scan import Scan, illumination, vacuum_pattern
from tests.formats.scans import CHUNK_PIXELS

DTYPES = (
    "uint8",
    "uint16",
    "uint32",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    ">u2",
    ">f4",
)


def fields(P: int = 12, N: int = 8, modes: int = 2, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Generic arguments of a Scan: nothing symmetric, nothing special."""
    rng = np.random.default_rng(seed)
    probe = rng.normal(size=(modes, N, N)) + 1j * rng.normal(size=(modes, N, N))
    given = {
        "counts": rng.poisson(3.0, (P, N, N)).astype(np.uint8),
        "positions": rng.uniform(0, (30, 20), (P, 2)),
        "probe": probe.astype(np.complex64),
    }
    return given | changes


def raster(rows: int, columns: int, step: float) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2) * step


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_kept_and_measures_the_same(dtype: str) -> None:
    counts = np.random.default_rng(0).integers(0, 200, (9, 7, 7))
    mask = np.arange(49).reshape(7, 7) % 5 != 0
    scan = Scan(**fields(9, 7, counts=counts.astype(dtype), mask=mask))
    assert scan.counts.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(scan.counts, counts)
    np.testing.assert_array_equal(scan.frame_counts, counts[:, mask].sum(axis=1))  # whole numbers: exact
    assert scan.mean_counts == counts[:, mask].sum(axis=1).mean()


def test_counts_are_summed_without_overflow() -> None:
    counts = np.full((2, 8, 8), 65535, np.uint16)
    assert Scan(**fields(2, counts=counts)).mean_counts == 65535 * 64


def test_masked_pixels_do_not_count_and_true_means_use() -> None:
    counts = np.ones((12, 8, 8), np.uint16)
    counts[:, 2, 3] = 60000
    mask = np.ones((8, 8), bool)
    mask[2, 3] = False
    assert Scan(**fields(counts=counts, mask=mask)).mean_counts == 63
    assert Scan(**fields(counts=counts)).mean_counts == 60063


def test_no_mask_uses_every_pixel() -> None:
    scan = Scan(**fields())
    assert scan.mask.shape == (8, 8) and scan.mask.dtype == bool and scan.mask.all()


def test_arrays_are_read_only_and_the_callers_are_not() -> None:
    given = fields(mask=np.ones((8, 8), bool), object=np.ones((40, 30), np.complex64))
    scan = Scan(**given)
    for name in ("counts", "positions", "probe", "mask", "object"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(scan, name)[0] = 0
        given[name][...] = given[name]  # raises if the flag had been taken from the caller's array


def test_conventional_dtypes() -> None:
    scan = Scan(
        **fields(
            positions=np.arange(24).reshape(12, 2),
            probe=np.ones((8, 8)),
            object=np.ones((40, 30), np.complex128),
            notes=["a", "b"],
            pixel_size_m=np.float32(0.5),
        )
    )
    assert scan.positions.dtype == np.float64
    assert scan.probe.dtype == np.complex64 and scan.probe.shape == (1, 8, 8) and scan.modes == 1
    assert scan.object is not None and scan.object.dtype == np.complex64
    assert scan.notes == ("a", "b") and scan.pixel_size_m == 0.5
    assert (len(scan), scan.N) == (12, 8)
    assert "12 frames of 8 x 8 uint8" in repr(scan)


def changed(array: np.ndarray, index: Any, value: Any) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


FLOATS = fields()["counts"].astype(np.float32)
POSITIONS, PROBE = fields()["positions"], fields()["probe"]
BAD = {
    "NaN count": (
        {"counts": changed(FLOATS, (7, 1, 2), np.nan)},
        "counts",
        "nan in frame 7 at pixel (1, 2)",
        "mask",
    ),
    "infinite count": ({"counts": changed(FLOATS, (7, 1, 2), np.inf)}, "counts", "inf in frame 7", "mask"),
    "negative count": ({"counts": changed(FLOATS, (7, 1, 2), -1.5)}, "counts", "-1.5 in frame 7", "mask"),
    "negative integer": (
        {"counts": changed(FLOATS, (7, 1, 2), -1).astype(np.int16)},
        "counts",
        "-1 in",
        "mask",
    ),
    "complex counts": ({"counts": FLOATS.astype(complex)}, "counts", "complex128", "counts, not complex"),
    "one frame of 2-D": ({"counts": FLOATS[0]}, "counts", "(8, 8)", "(frames, N, N)"),
    "oblong frames": ({"counts": FLOATS[:, :, :6]}, "counts", "(12, 8, 6)", "crop or pad"),
    "no frames": (
        {"counts": FLOATS[:0], "positions": POSITIONS[:0]},
        "counts",
        "(0, 8, 8)",
        "at least one frame",
    ),
    "one pixel": ({"counts": FLOATS[:, :1, :1]}, "counts", "one pixel", "whole frames"),
    "empty frames": ({"counts": FLOATS * 0}, "counts", "0 in every used pixel of all 12", "right data set"),
    "all light masked": (
        {
            "counts": changed(FLOATS * 0, (slice(None), 0, 0), 5),
            "mask": changed(np.ones((8, 8), bool), (0, 0), False),
        },
        "counts",
        "0 in every used pixel",
        "invert",
    ),
    "no positions": ({"positions": np.empty((0, 2))}, "positions", "empty", "(y, x)"),
    "a position too few": ({"positions": POSITIONS[1:]}, "positions", "(11, 2)", "12 frames"),
    "columns of positions": ({"positions": POSITIONS.T}, "positions", "(2, 12)", "transpose"),
    "complex positions": ({"positions": POSITIONS * 1j}, "positions", "complex128", "object pixels"),
    "NaN position": (
        {"positions": changed(POSITIONS, (3, 1), np.nan)},
        "positions",
        "nan] for frame 3",
        "leave out",
    ),
    "infinite position": (
        {"positions": changed(POSITIONS, (3, 0), -np.inf)},
        "positions",
        "[-inf",
        "leave out",
    ),
    "equal positions": ({"positions": np.full((12, 2), 4.5)}, "positions", "[4.5, 4.5]", "pixel size"),
    "positions in metres": ({"positions": POSITIONS * 1e-8}, "positions", "all the same", "pixel size"),
    "probe of another size": ({"probe": PROBE[:, 1:, 1:]}, "probe", "(2, 7, 7)", "crop or pad"),
    "no probe modes": ({"probe": PROBE[:0]}, "probe", "(0, 8, 8)", "(modes, 8, 8)"),
    "probe of zeros": ({"probe": PROBE * 0}, "probe", "0 everywhere", "give a probe"),
    "NaN probe": ({"probe": changed(PROBE, (1, 2, 3), np.nan)}, "probe", "mode 1 at pixel (2, 3)", "to 0"),
    "probe beyond complex64": ({"probe": PROBE.astype(complex) * 1e300}, "probe", "inf", "finite"),
    "probe of words": ({"probe": PROBE.astype(str)}, "probe", "<U", "complex"),
    "mask of another size": ({"mask": np.ones((7, 8), bool)}, "mask", "(7, 8)", "(8, 8)"),
    "mask of integers": ({"mask": np.ones((8, 8), int)}, "mask", "int64", "True where a pixel is used"),
    "mask of nothing": ({"mask": np.zeros((8, 8), bool)}, "mask", "False everywhere", "invert"),
    "object of layers": ({"object": np.ones((2, 40, 30))}, "object", "(2, 40, 30)", "(H, W)"),
    "NaN object": (
        {"object": changed(np.ones((40, 30)), (4, 5), np.nan)},
        "object",
        "pixel (4, 5)",
        "finite",
    ),
    "object too small": ({"object": np.ones((40, 5))}, "object", "(40, 5)", "swap or shift"),
    "position above the object": (
        {"positions": POSITIONS - 10, "object": np.ones((40, 30))},
        "positions",
        "outside Scan.object",
        "swap or shift",
    ),
    "negative pixel size": ({"pixel_size_m": -1e-9}, "pixel_size_m", "-1e-09", "above 0"),
    "two pixel sizes": ({"pixel_size_m": (1e-9, 2e-9)}, "pixel_size_m", "(1e-09, 2e-09)", "one number"),
    "notes as a string": ({"notes": "a note"}, "notes", "'a note'", "tuple"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_with_its_value_and_a_remedy(name: str) -> None:
    changes, field, value, remedy = BAD[name]
    with pytest.raises(ValueError) as error:
        Scan(**fields(**changes))
    message = str(error.value)
    assert f"Scan.{field}" in message and value in message and remedy in message, message


def test_a_bad_count_is_found_beyond_the_first_chunk() -> None:
    N = 64
    P = 2 * CHUNK_PIXELS // N**2 + 3
    counts = np.ones((P, N, N), np.int16)
    counts[P - 1, 5, 6] = -7
    with pytest.raises(ValueError, match=re.escape(f"-7 in frame {P - 1} at pixel (5, 6)")):
        Scan(**fields(P, N, counts=counts))


def test_one_frame_is_a_scan() -> None:
    """A trained network reconstructs a single frame, and a withheld set may hold just one."""
    scan = Scan(**fields(1))
    assert len(scan) == 1 and np.isnan(scan.step_px) and np.isnan(scan.overlap)


def test_validation_makes_no_float_copy() -> None:
    P, N = 2000, 64
    given = fields(P, N, modes=1)
    tracemalloc.start()
    try:
        scan = Scan(**given)
        _ = scan.mean_counts
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Two chunks as float64, and copies of positions, mask and probe; the stack itself is 8.2 MB.
    assert peak < 2 * 8 * CHUNK_PIXELS + 2**20
    assert peak < given["counts"].nbytes
    assert np.shares_memory(scan.counts, given["counts"])


@given(st.integers(2, 40), st.integers(2, 11), st.data())
def test_split_loses_and_repeats_no_frame(P: int, every: int, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, min(every, P) - 1))
    counts = np.broadcast_to(np.arange(1, P + 1)[:, None, None], (P, 4, 4))
    scan = Scan(**fields(P, 4, counts=counts, notes=("kept",), probe_known=False))
    rest, held_out = scan.split(every, offset)
    np.testing.assert_array_equal(held_out.counts[:, 0, 0] - 1, np.arange(offset, P, every))
    np.testing.assert_array_equal(held_out.positions, scan.positions[offset::every])
    both = np.concatenate([rest.counts[:, 0, 0], held_out.counts[:, 0, 0]])
    np.testing.assert_array_equal(np.sort(both), np.arange(1, P + 1))
    assert rest.notes == held_out.notes == ("kept",) and not rest.probe_known


@pytest.mark.parametrize("every, offset", [(1, 0), (0, 0), (3, 3), (3, -1)])
def test_split_rejects_what_leaves_nothing(every: int, offset: int) -> None:
    with pytest.raises(ValueError, match=f"every is {every} and offset {offset}"):
        Scan(**fields()).split(every, offset)


@pytest.mark.parametrize("index", [slice(2, 9, 3), [2, 5, 8], np.isin(np.arange(12), [2, 5, 8])])
def test_subset_takes_counts_and_positions_alike(index: Any) -> None:
    scan = Scan(**fields(mask=np.eye(8) == 0, object=np.ones((40, 30))))
    part = scan.subset(index)
    np.testing.assert_array_equal(part.counts, scan.counts[[2, 5, 8]])
    np.testing.assert_array_equal(part.positions, scan.positions[[2, 5, 8]])
    np.testing.assert_array_equal(part.mask, scan.mask)
    assert part.object is not None and part.object.shape == (40, 30)


def test_subset_keeps_the_order_asked_for_and_takes_one_index() -> None:
    scan = Scan(**fields())
    np.testing.assert_array_equal(scan.subset([7, 1]).positions, scan.positions[[7, 1]])
    assert len(scan.subset(3)) == 1
    with pytest.raises(ValueError, match="no frames"):
        scan.subset([])


def test_diameter_of_a_disc_and_of_a_gaussian() -> None:
    N = 128
    y, x = np.indices((N, N)) - N // 2
    disc = np.hypot(y, x) <= 20
    scan = Scan(**fields(4, N, counts=np.ones((4, N, N)), probe=disc * (3 + 4j)))
    assert scan.probe_diameter_px == pytest.approx(2 * np.sqrt(disc.sum() / np.pi), rel=1e-6)  # complex64
    sigma = 9.0
    gaussian = np.exp(-(y**2 + x**2) / (4 * sigma**2))  # |.|^2 has standard deviation sigma
    assert scan.with_probe(gaussian).probe_diameter_px == pytest.approx(4 * sigma, rel=1e-5)  # cut off at 7 sigma


def test_overlap_of_a_raster_taken_twice() -> None:
    N = 64
    y, x = np.indices((N, N)) - N // 2
    probe = (np.hypot(y, x) <= 16).astype(complex)
    positions = np.concatenate([raster(5, 4, 8.0)] * 2)
    scan = Scan(**fields(40, N, probe=probe, positions=positions))
    assert scan.step_px == 8.0
    assert scan.overlap == 1 - 8.0 / scan.probe_diameter_px
    far = Scan(**fields(40, N, probe=probe, positions=positions * 10))
    assert far.overlap < 0


@pytest.mark.parametrize("N", [7, 8])
def test_the_vacuum_pattern_keeps_the_photons_and_is_centred(N: int) -> None:
    probe = fields(N=N)["probe"]
    rounding = N * float(np.finfo(np.float32).eps)  # the forward model is in single precision
    assert vacuum_pattern(probe).sum() == pytest.approx(illumination(probe).sum(), rel=rounding)  # Parseval
    flat = vacuum_pattern(np.ones((1, N, N), np.complex64))
    assert flat[N // 2, N // 2] == pytest.approx(N**2)  # a plane wave goes to zero frequency
    assert flat.sum() - flat[N // 2, N // 2] < rounding * N**2


def test_with_probe_keeps_a_known_probe_bit_for_bit() -> None:
    scan = Scan(**fields())
    other = scan.with_probe(PROBE * 2, known=False)
    assert not other.probe_known and scan.probe_known
    np.testing.assert_array_equal(other.with_probe(scan.probe).probe, PROBE)
    assert np.shares_memory(other.counts, scan.counts)


@pytest.mark.parametrize(
    "ratio, verdict", [(1.04, None), (1.06, "no sample amplifies"), (0.06, None), (0.04, "units of both")]
)
def test_dose_mismatch(ratio: float, verdict: str | None) -> None:
    probe = PROBE * np.sqrt(1e6 / illumination(PROBE).sum())
    counts = np.full((12, 8, 8), ratio * 1e6 / 64)
    said = Scan(**fields(counts=counts, probe=probe)).check_dose()
    assert said is None if verdict is None else said is not None and verdict in said
    assert Scan(**fields(counts=counts, probe=probe, probe_known=False)).check_dose() is None


def test_a_beam_stop_is_no_dose_mismatch() -> None:
    """Nearly all light of a wide probe is at zero frequency, where the mask is False."""
    probe = 100 * np.ones((1, 8, 8)) + np.linspace(0, 30, 8)
    expected = vacuum_pattern(probe)
    mask = np.ones((8, 8), bool)
    mask[4, 4] = False
    scan = Scan(**fields(counts=np.repeat(expected[None], 12, axis=0), probe=probe, mask=mask))
    assert scan.mean_counts < 0.05 * scan.photons and scan.check_dose() is None


# ------------------------------------------------------------------------------------------------- near field

NEAR = NearField(distance_px=7.0, wavelength_px=0.5)


def test_the_transfer_function_of_a_scan_is_that_of_its_near_field() -> None:
    from ptycho.physics.propagation import transfer_function

    scan = Scan(**fields(near_field=NEAR))
    assert scan.transfer is not None
    np.testing.assert_array_equal(scan.transfer, transfer_function((8, 8), 7.0, 0.5, "angular-spectrum"))
    assert scan.subset([0, 3]).near_field == scan.with_probe(2 * scan.probe).near_field == NEAR
    assert Scan(**fields()).transfer is None


def test_the_vacuum_pattern_in_the_near_field_has_the_light_where_it_falls() -> None:
    """Right behind the probe, but for what little diffracts within a quarter of a pixel."""
    y, x = np.mgrid[:16, :15]
    probe = np.exp(-((y - 6.0) ** 2 + (x - 9.0) ** 2) / 18)[None, :, :15]
    probe = np.pad(probe, ((0, 0), (0, 0), (0, 1)))
    light = illumination(probe)
    scan = Scan(**fields(N=16, probe=probe, near_field=NearField(distance_px=0.25, wavelength_px=0.5, kind="fresnel")))
    np.testing.assert_allclose(vacuum_pattern(scan.probe, scan.transfer), light, atol=1e-2)
    np.testing.assert_allclose(vacuum_pattern(scan.probe, scan.transfer).sum(), light.sum(), rtol=1e-6)


def test_the_dose_check_knows_the_near_field() -> None:
    """Light on a corner of a detector that sees nothing else: in the far field it would be all over the frame."""
    probe = np.zeros((16, 16))
    probe[2:6, 2:6] = 10
    counts = np.zeros((12, 16, 16), np.uint16)
    counts[:, 2:6, 2:6] = 100
    mask = np.zeros((16, 16), bool)
    mask[8:, 8:] = True
    counts[:, 15, 15] = 1
    near = NearField(distance_px=0.5, wavelength_px=0.1)
    given = fields(N=16, counts=counts, probe=probe, mask=mask)
    assert Scan(**given, near_field=near).check_dose() is None
    assert "counts on average" in str(Scan(**given).check_dose())


def test_a_near_field_has_to_be_one_and_what_cannot_take_it_says_so() -> None:
    with pytest.raises(ValueError, match=r"Scan\.near_field is 7\.0; expected a NearField"):
        Scan(**fields(near_field=7.0))
    Scan(**fields()).require_far_field()
    with pytest.raises(
        ValueError, match=r"Scan\.near_field is NearField\(distance_px=7.*networks are for the far field"
    ):
        Scan(**fields(near_field=NEAR)).require_far_field()
