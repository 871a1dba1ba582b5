"""What `ptycho info` says is what was put into the scan."""

import numpy as np

from ptycho.config import NearField
from ptycho.data.scan import Scan
from ptycho.diagnostics.describe import describe
from tests.diagnostics.scans import scan_of


def test_description_states_what_is_in_the_data() -> None:
    counts = np.zeros((6, 8, 8), np.uint16)
    counts[:, 4, 4] = [10, 20, 30, 40, 50, 60]
    mask = np.ones((8, 8), bool)
    mask[0, :4] = False
    positions = np.stack([np.arange(6) * 3.0, np.arange(6) * 4.0], axis=1)
    probe = np.sqrt(np.array([3.0, 1.0]))[:, None, None] * np.ones((2, 8, 8)) / 8
    rows = dict(describe(Scan(counts=counts, positions=positions, probe=probe, mask=mask, pixel_size_m=7.5e-9)))
    assert rows["frames"] == "6"
    assert rows["frame size"].startswith("8 x 8 pixels, uint16")
    assert rows["counts per frame"] == "35 (from 10 to 60)"
    assert rows["largest count"] == "60"
    assert rows["zeros"] == f"{100 * (1 - 1 / 64):.1f} %"
    assert rows["masked pixels"] == f"{100 * 4 / 64:.1f} %"
    assert rows["field of positions"].startswith("15.0 x 20.0 object pixels of 7.5 nm")
    assert rows["step"] == "5.00 pixels"
    assert rows["probe"] == "known, 4 photons a frame"
    assert rows["probe modes"] == "2 (75 %, 25 %)"
    assert "no sample amplifies" in rows["dose check"]
    assert rows["true object"] == "none"


def test_description_of_a_guess_with_the_zero_frequency_at_the_corner() -> None:
    scan = scan_of()
    guess = scan_of(
        counts=np.fft.ifftshift(scan.counts, axes=(1, 2)),
        probe_known=False,
        object=np.ones((61, 41)),
        positions=scan.positions,
    )
    rows = dict(describe(guess))
    assert "corner" in rows["zero frequency"] and "guess" in rows["probe"]
    assert rows["dose check"] == "nothing to check" and rows["true object"] == "61 x 41 pixels"
    assert dict(describe(scan))["dose check"] == "consistent"


def test_description_of_a_near_field_has_its_way_and_no_zero_frequency() -> None:
    assert dict(describe(scan_of()))["propagation"] == "far field"
    rows = dict(describe(scan_of(near_field=NearField(distance_px=1500, wavelength_px=2e-3, kind="fresnel"))))
    assert rows["propagation"] == "near field (fresnel), 1500 pixels at a wavelength of 0.002 pixels"
    assert "zero frequency" not in rows
