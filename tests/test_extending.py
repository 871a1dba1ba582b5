"""What docs/extending.md says has to be touched, followed for real."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import typer
from keras import ops
from typer.testing import CliRunner

from ptycho import formats, read_scan, write_scan
from ptycho.cli.options import configured, run_config
from ptycho.config import SECTIONS, ModelConfig, RefineConfig, RunConfig, SimulationConfig, TrainingConfig
from ptycho.data.scan import Scan
from ptycho.evaluation import compare_objects
from ptycho.formats import Access, BadFile, Format, ReadOptions, convert
from ptycho.network.architectures import ARCHITECTURES, Architecture
from ptycho.network.build import build_model
from ptycho.network.files import load_model, save_model
from ptycho.network.stages import channels
from ptycho.physics import propagation
from ptycho.physics.forward import Diffraction, frame_probes
from ptycho.physics.fourier import polar, times_real
from ptycho.physics.propagation import fresnel_lag, transfer_function
from ptycho.reconstruction import reconstruct
from ptycho.refinement import unknowns
from ptycho.refinement.refine import refine
from ptycho.simulation.simulate import simulate
from ptycho.training.train import train
from ptycho.typed import Config
from tests.formats.scans import assert_same, recognised, scan_of


def test_a_file_format_is_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text: a first line ``frames N``, then y, x and the N * N counts of a frame per line."""

    def first_line(path: Path) -> bytes:
        with path.open("rb") as file:
            return file.readline(100)

    def recognises(path: Path) -> bool:
        return first_line(path).startswith(b"frames ")

    def read(path: Path, options: ReadOptions) -> Scan:
        N = int(first_line(path).split()[1])
        rows = np.loadtxt(path, skiprows=1, ndmin=2)
        if rows.shape[1] != 2 + N * N:
            raise BadFile(f"{path} has rows of {rows.shape[1]} numbers; expected y, x and {N * N} counts")
        counts = rows[:, 2:].astype(np.uint16).reshape(-1, N, N)
        note = "The file holds no probe: a flat one was taken."
        return Scan(counts=counts, positions=rows[:, :2], probe=np.ones((N, N)), probe_known=False, notes=(note,))

    def write(scan: Scan, path: Path) -> None:
        rows = np.concatenate([scan.positions, scan.counts.reshape(len(scan), -1)], axis=1)
        np.savetxt(path, rows, fmt="%.17g", header=f"frames {scan.N}", comments="")

    text = Format(
        name="text",
        suffixes=(".frames",),
        needs="a first line 'frames N'",
        scans=Access(recognises, read, write),
        lacks=("probe", "mask", "object", "beam", "pixel_size_m", "notes"),
    )
    scan = scan_of()
    with pytest.raises(ValueError, match=r"named like 'a\.frames'"):
        write_scan(scan, tmp_path / "a.frames")
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, text))

    path = write_scan(scan, tmp_path / "a.frames")
    assert recognised(path) == ["text"]
    assert_same(read_scan(path), scan, text.lacks)
    notes = convert(path, tmp_path / "b.h5")
    assert any("a flat one" in note for note in notes)
    lost = convert(tmp_path / "b.h5", tmp_path / "c.dat", "text")
    assert "Files of text have no place for the probe and the notes: lost." in lost
    assert_same(read_scan(tmp_path / "c.dat"), replace(scan, probe_known=False), text.lacks)

    path.write_text("frames 16\n1 2 3\n")
    with pytest.raises(BadFile, match=r"a\.frames has rows of 3 numbers"):
        read_scan(path)
    (tmp_path / "d.dat").write_text("something else")
    with pytest.raises(BadFile, match=r"no format recognises .*\btext\b"):
        read_scan(tmp_path / "d.dat")


@dataclass(frozen=True, kw_only=True)
class Damped(Config):
    """Settings of a refinement, after somebody has added one."""

    damping: float = 0.5
    """Fraction of each step that is taken. More is faster."""


def test_a_setting_is_one_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SECTIONS, "refine", Damped)
    (tmp_path / "run.toml").write_text("[refine]\ndamping = 1\n")
    assert RunConfig.from_toml(tmp_path / "run.toml").make(Damped) == Damped(damping=1.0)
    with pytest.raises(ValueError, match=r"Damped\.damping is 'all'; expected a number"):
        run_config(None, ["refine.damping=all"])
    called, commands = [], typer.Typer()
    commands.command()(configured("refine")(lambda run: called.append(run)))
    shown = CliRunner().invoke(commands, ["--help"], env={"COLUMNS": "200"}).output
    assert "--damping" in shown and "Fraction of each step that is taken." in shown and "More" not in shown
    assert CliRunner().invoke(commands, ["--damping", "0.25"]).exit_code == 0
    assert called[0].make(Damped).damping == 0.25


def test_an_unknown_is_a_class_a_line_and_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defocus of the probe, one number: a known probe that is out of focus comes back into it."""
    squared = np.add.outer(*(np.fft.fftfreq(24) ** 2,) * 2)

    def refocused(probe: np.ndarray, factor: np.ndarray) -> np.ndarray:
        return np.fft.ifft2(factor * np.fft.fft2(probe)).astype("complex64")

    @dataclass(frozen=True)
    class Defocus(unknowns.Unknown):
        name, field = "defocus", "probe"

        def gradient(self, fit):
            return dict(gradient=fit.model.probe_gradient(fit.chi))

        def direction(self, solver, gradients, frames):
            derivative = refocused(solver.state["probe"], 1j * squared)  # of F^-1[exp(i d f^2) F P] by d
            return derivative * np.sign(np.vdot(derivative, gradients["gradient"]).real)

        def amplitude_changes(self, fit, direction):
            return fit.residuals.amplitude_change(ops.sum(fit.model.probe_change(direction), axis=1))[None]

        def apply(self, solver, change):
            derivative = refocused(solver.state["probe"], 1j * squared)
            step = np.vdot(derivative, change).real / np.vdot(derivative, derivative).real
            return refocused(solver.state["probe"], np.exp(1j * step * squared))

    monkeypatch.setitem(unknowns.UNKNOWNS, "defocus", lambda config: (Defocus(),))
    monkeypatch.setattr(RefineConfig, "defocus_from", 4, raising=False)
    scan = simulate(SimulationConfig(N=24, positions=81, step_px=3.0, seed=1))
    off = scan.with_probe(refocused(scan.probe, np.exp(40j * squared)))
    overlap = lambda probe: abs(np.vdot(probe, scan.probe)) / np.vdot(scan.probe, scan.probe).real
    fit = refine(off, RefineConfig(noise="poisson"))
    assert overlap(off.probe) < 0.9
    assert overlap(fit.result.probe) > 0.998


def test_a_propagation_is_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresnel's approximation with the next term of the square root: between Fresnel and the exact one."""

    def fourth_order_lag(squared: np.ndarray, wavelength_px: float) -> np.ndarray:
        return fresnel_lag(squared, wavelength_px) + wavelength_px**3 * squared**2 / 8

    monkeypatch.setitem(propagation.LAGS, "fourth-order", fourth_order_lag)
    transfer = {kind: transfer_function((16, 16), 12.0, 0.5, kind) for kind in propagation.LAGS}
    far_off = np.abs(transfer["fresnel"] - transfer["angular-spectrum"]).max()
    assert np.abs(transfer["fourth-order"] - transfer["angular-spectrum"]).max() < 0.1 * far_off
    # The forward model takes it as any other, and conserves the photons.
    rng = np.random.default_rng(0)
    probe = (rng.normal(size=(2, 16, 16)) + 1j * rng.normal(size=(2, 16, 16))).astype("complex64")
    patch = np.exp(1j * rng.normal(size=(3, 16, 16))).astype("complex64")
    probes, moved = frame_probes(
        probe[None], rng.uniform(-0.5, 0.5, (3, 2)).astype("float32"), transfer["fourth-order"]
    )
    expected = ops.convert_to_numpy(Diffraction([patch], probes, moved).expected)
    np.testing.assert_allclose(expected.sum(axis=(1, 2)), (np.abs(probe) ** 2).sum(), rtol=1e-5)


@pytest.mark.slow
def test_a_network_is_a_function_and_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step down the gradient, as long as one U-Net makes it: after one epoch it sees more than a flat object."""

    def one_step(nets, frames, inputs, settings):
        scale = 1.0 / ((frames.coverage + 0.02) * frames.illumination.peak)
        gradient = times_real(frames.gradient(None), scale)
        state = nets[0](channels(ops.real(gradient), ops.imag(gradient)))
        return polar(state[..., 0], state[..., 1])

    record = Architecture(
        reconstruct=one_step, channels=lambda settings, k: 2, needs_neighbours=True, symmetric=False, most_stages=1
    )
    monkeypatch.setitem(ARCHITECTURES, "one-step", record)
    monkeypatch.setitem(ModelConfig.__annotations__, "architecture", Literal["consensus", "one-step"])
    scan = simulate(SimulationConfig(N=24, positions=144, step_px=4.0, jitter_px=1.0, photons=1e5, seed=3))
    settings = ModelConfig(N=24, architecture="one-step", stages=1, width=4, gridsize=2)
    with pytest.raises(ValueError, match="expected 1 to 1 with architecture='one-step'"):
        build_model(replace(settings, stages=2))
    network = build_model(settings)
    train(network, scan, TrainingConfig(epochs=1, batch_groups=1, learning_rate=1e-2))
    result = reconstruct(network, scan)
    scores = compare_objects(result.object, scan.object)
    assert scores.snr_db > scores.flat.snr_db + 1
    again = load_model(save_model(network, tmp_path / "model.keras"))
    np.testing.assert_allclose(reconstruct(again, scan).object, result.object, atol=1e-5)
