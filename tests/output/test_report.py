"""The page of a run: whole, alone, small enough, and true to the arrays it shows."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from ptycho.config import Multislice, NearField
from ptycho.data.beam import Beam
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.diagnostics.checks import Check
from ptycho.evaluation import Judgement, Verdict, compare_objects
from ptycho.evaluation.judgement import Errors
from ptycho.images import binned
from ptycho.output.panels import colour_range, complex_mode_images, opr_images, palette, pattern_images, slice_images
from ptycho.output.report import save_report


@pytest.fixture(scope="module")
def truth_as_result(small_scan):
    """The true object, as if it had been reconstructed."""
    return Reconstruction(
        object=small_scan.object,
        probe=small_scan.probe,
        positions_px=small_scan.positions,
        coverage=np.ones(small_scan.object.shape, "float32"),
        used=len(small_scan),
        dropped=0,
    )


@pytest.mark.slow
def test_the_page_stands_alone_and_says_what_was_found(small_scan, truth_as_result, tmp_path):
    fit = [dict(epoch=k, error=0.1 / k, held_out_error=None) for k in (1, 2, 3)]
    scores = compare_objects(small_scan.object + 0.01, small_scan.object)
    path = save_report(
        tmp_path / "report.html", small_scan, truth_as_result, scores=scores, findings=["3 < 4 & more"], fit=fit,
        settings=dict(epochs=3),
    )  # fmt: skip
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 15e6
    # Nothing is fetched: no element names a source, a style sheet or a picture elsewhere.
    for tag in re.findall(
        r"<(?:script|link|img|iframe|source)\b[^>]*>", re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.S)
    ):
        assert "http" not in tag
    assert not re.search(r"<script[^>]*\ssrc=", page)
    for heading in (
        "Object",
        "Findings",
        "Probe",
        "Frames on the scan",
        "Refinement",
        "Fourier ring correlation",
        "Scan",
    ):
        assert re.search(f"<h2>{heading}", page), heading
    assert "3 &lt; 4 &amp; more" in page
    assert f">{scores.snr_db:.1f}<" in page and f">{scores.flat.snr_db:.1f}<" in page
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_the_first_screen_says_what_to_think_of_the_image(small_scan, truth_as_result, tmp_path):
    """The verdict, the error beside noise and mean frame, and what was measured; the checks folded where all pass."""
    errors = Errors(error=0.012, shot_noise=0.006, mean_frame=0.096)
    judgement = Judgement(frames=9, uncovered=0, unseen=True, amplitude=errors, deviance=errors, sparse=False)
    decision = Verdict(kind="disagrees", sentence="An image, but 2 < 3.")
    checks = [Check("values", "pass", "counts", ""), Check("overlap", "pass", "60 %", "")]
    made = replace(truth_as_result, uncertainty=np.full(small_scan.object.shape, 0.125, "float32"))
    options = dict(verdict=decision, judgement=judgement, findings=["three modes"], checks=checks)
    page = save_report(tmp_path / "report.html", small_scan, made, **options).read_text(encoding="utf-8")
    body = page[page.index("<body>") :]
    assert "<p class='headline fair'>" in body and "An image, but 2 &lt; 3." in body
    assert "this image 0.012; shot noise 0.006, mean frame 0.096" in body
    # On a logarithmic line twice the noise of sixteen times lies at a quarter of it: 12 + 276 / 4.
    assert "<circle cx='81.0'" in body
    assert f"<dd>{len(small_scan)} of {len(small_scan)}</dd>" in body and "<dd>0.12</dd>" in body
    assert "<summary>all 2 pass</summary>" in body
    order = [body.index(text) for text in ("headline", "<h2>Object", "At a glance", "<h2>Findings", "<h2>Probe")]
    assert order == sorted(order)
    failed = [*checks, Check("units", "fail", "a step of 1 m", "--pixel-size-nm")]
    page = save_report(tmp_path / "failed.html", small_scan, made, checks=failed).read_text(encoding="utf-8")
    assert "pass</summary>" not in page and "--pixel-size-nm" in page


def test_colours_of_a_probe_are_its_phase_and_their_brightness_its_amplitude():
    mode = np.array([[1, 1j], [-0.5, 0]], "complex64")
    (image,) = complex_mode_images(mode[None])
    red, green, blue, opacity = np.moveaxis(image.image.view("uint8").reshape(2, 2, 4), -1, 0)
    assert (opacity == 255).all() and image.title == "mode 1: 100.0 %"
    bright = np.maximum(np.maximum(red, green), blue)
    assert bright.tolist() == [[255, 255], [128, 0]]  # 127.5 to the even one
    assert red[0, 0] == 255 and green[0, 0] == blue[0, 0] == 38  # 255 (1 - 0.85) = 38.25: red is phase 0
    assert green[0, 1] == 255  # a quarter turn: between yellow and green
    assert (green[1, 0], blue[1, 0]) == (128, 128) and red[1, 0] == 19  # half a turn: cyan


def test_the_page_shows_all_unknowns_of_an_estimate(small_scan, truth_as_result, tmp_path):
    slices = np.stack([small_scan.object, np.exp(0.1j * np.angle(small_scan.object))])
    result = replace(
        truth_as_result,
        slices=slices,
        object=slices.prod(axis=0),
        multislice=Multislice(slices=2, spacing_px=7.5, wavelength_px=0.01),
        opr_modes=small_scan.probe[:1] / 10,
        opr_weights=np.full((len(small_scan), 1), 2, "float32"),
        background=np.full((24, 24), 3, "float32"),
        blur_px=0.75,
        affine=np.array([[1.01, 0], [0, 0.99]]),
    )
    (mode,) = opr_images(result)
    assert mode.title == "OPR mode 1: 4.00 %"
    assert [image.title for image in slice_images(result)] == ["slice 1: phase", "slice 2: phase"]
    page = save_report(tmp_path / "report.html", small_scan, result, checks=()).read_text(encoding="utf-8")
    plain = save_report(tmp_path / "plain.html", small_scan, truth_as_result, checks=()).read_text(encoding="utf-8")
    for heading in ("OPR modes", "Slices", "Background", "Further unknowns"):
        assert f"<h2>{heading}" in page and f"<h2>{heading}" not in plain
    for value in ("3 counts a pixel", "0.75 pixels", "2, 7.5 object pixels apart", "1.01000, 0.00000"):
        assert value in page


def test_the_probe_is_shown_along_the_beam_where_lengths_are_known(small_scan, truth_as_result, tmp_path):
    def headings(scan: Scan) -> list[str]:
        page = save_report(tmp_path / "report.html", scan, truth_as_result, checks=()).read_text(encoding="utf-8")
        return re.findall("<h2>(Probe through focus.*?)</h2>", page)

    known = replace(small_scan, pixel_size_m=10e-9, beam=Beam.of_wavelength(1e-10))
    (heading,) = headings(known)
    assert re.fullmatch(
        r"Probe through focus: smallest .* µm (behind|before) the sample, .* x .* nm \(y x, FWHM\)", heading
    )
    near = NearField(distance_px=100.0, wavelength_px=0.01)
    assert not headings(small_scan) and not headings(replace(known, near_field=near))


def test_patterns_are_those_of_the_frames_and_their_predictions(small_scan, truth_as_result):
    frames, images = pattern_images(small_scan, truth_as_result, 4_000_000)
    assert len(frames) == len(small_scan)
    assert images["measured"].shape == (len(frames), 24, 24)
    predicted = truth_as_result.expected_counts(frames)
    top = np.log1p(max(small_scan.counts.max(), predicted.max()))
    for name, counts in (("measured", small_scan.counts), ("predicted", predicted)):
        level = np.log1p(counts.astype(float)) * 255 / top
        assert np.all(abs(images[name] + 0.5 - level) <= 0.51)  # cut to whole numbers; and float32
    bright = images["measured"] > 128
    # The truth predicts what was measured up to shot noise: far nearer to its own frame than to another one.
    own = np.abs(images["measured"].astype(float) - images["predicted"])[bright].mean()
    other = np.abs(images["measured"].astype(float) - np.roll(images["predicted"], 50, axis=0))[bright].mean()
    assert own < other / 2


def test_of_a_large_scan_some_frames_are_in_the_page(small_scan):
    most_bytes = 4_000_000
    times = 1 + most_bytes // (24 * 24 * len(small_scan))
    large = replace(
        small_scan,
        counts=np.tile(small_scan.counts, (times, 1, 1)),
        positions=np.concatenate([small_scan.positions + (0, 100 * k) for k in range(times)]),
        object=None,
    )
    frames, images = pattern_images(large, None, most_bytes)
    assert images["measured"].nbytes <= most_bytes < large.counts.size
    assert frames[0] == 0 and frames[-1] == len(large) - 1


@pytest.mark.slow
def test_the_largest_report_is_below_15_mb(small_scan, tmp_path):
    """40 000 frames of 128 pixels, eight probe modes, an object of 2816 pixels, a long history."""
    frames, side, shape = 40_000, 128, (2816, 2816)
    rng = np.random.default_rng(0)
    noise = lambda *size: (rng.normal(size=size) + 1j * rng.normal(size=size)).astype("complex64")
    scan = replace(
        small_scan,
        counts=np.broadcast_to(rng.poisson(5.0, (1, side, side)).astype("uint16"), (frames, side, side)),
        positions=rng.uniform(side, shape[0] - side, (frames, 2)),
        probe=noise(8, side, side),
        mask=np.ones((side, side), bool),
        object=None,
    )
    result = Reconstruction(
        object=noise(*shape),
        probe=scan.probe,
        positions_px=scan.positions,
        coverage=np.ones(shape, "float32"),
        frame_residual=rng.uniform(1, 2, frames).astype("float32"),
        used=frames,
        dropped=0,
    )
    fit = [dict(epoch=k, error=1 / k, held_out_error=1.1 / k) for k in range(1, 301)]
    path = save_report(tmp_path / "report.html", scan, result, fit=fit, training=[], checks=())
    assert 11e6 < path.stat().st_size < 15e6


def test_binning_averages_whole_squares():
    image = np.arange(35.0).reshape(5, 7)
    small, k = binned(image, 4)
    assert k == 2
    assert np.array_equal(small, [[4, 6, 8], [18, 20, 22]])
    assert binned(image, 7)[1] == 1


@pytest.mark.slow
def test_view_makes_the_page_of_a_bare_scan(small_scan, tmp_path):
    from ptycho.formats import write_scan

    write_scan(replace(small_scan, object=None), tmp_path / "scan.h5")
    command = [sys.executable, "-m", "ptycho.cli.app", "view", str(tmp_path / "scan.h5"), "--no-open"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Frames on the scan" in (tmp_path / "scan.html").read_text(encoding="utf-8")
    empty = tmp_path / "run"
    empty.mkdir()
    done = subprocess.run([*command[:-2], str(empty), "--no-open"], capture_output=True, text=True)
    assert done.returncode != 0 and "no report" in done.stderr and "Traceback" not in done.stderr


def steps(name: str) -> np.ndarray:
    """How far it is (CIEDE2000) by way of the colours between to the one that is 8 of 256 on: more than rounding."""
    lab = in_lab(name)
    return np.convolve(deltaE_ciede2000(lab[:-1], lab[1:]), np.ones(8), "valid")


def in_lab(name: str) -> np.ndarray:
    return rgb2lab([[int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)] for colour in palette(name)])


def is_even(step: np.ndarray) -> bool:
    """Equal differences look about equal: within a factor of two of their mean, as the eye's own measures disagree."""
    return step.min() > step.mean() / 2 and step.max() < step.mean() * 2


@pytest.mark.parametrize("name", ["gray", "viridis", "twilight"])
def test_colour_maps_are_perceptually_uniform(name):
    assert is_even(steps(name))
    assert not is_even(steps("jet"))
    lightness = in_lab(name)[:, 0]
    if name != "twilight":
        assert (lightness[8:] > lightness[:-8]).all()


def test_the_map_of_phases_is_cyclic():
    lab = in_lab("twilight")
    between = deltaE_ciede2000(lab[:-1], lab[1:])
    assert deltaE_ciede2000(lab[-1], lab[0]) < 2 * between.max()
    dark = lab[:, 0].argmin()
    assert 120 < dark < 136  # lightness falls for half of the cycle, and rises for the other


def test_a_cyclic_map_spans_the_cycle():
    rng = np.random.default_rng(0)
    assert colour_range("phase", rng.uniform(-np.pi, np.pi, (64, 64))) == ("twilight", *[(-np.pi, np.pi)] * 2)
    name, ends, value = colour_range("phase", rng.uniform(-0.5, 0.5, (64, 64)))
    assert name == "gray" and ends == (-np.pi, np.pi) and -0.5 <= value[0] < value[1] <= 0.5
