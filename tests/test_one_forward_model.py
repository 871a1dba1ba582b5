"""Nothing but `ptycho.physics` carries waves to the detector: a second place that does fails here.

Who needs expected counts asks `ptycho.physics.forward`. By the syntax of the modules: a model of diffraction takes a
Fourier transform or a propagation, so the other modules may call or import neither, except those that are named here,
each with what it transforms.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ptycho

PACKAGE = Path(ptycho.__file__).parent

TRANSFORMS = {
    "dft",
    "inverse_dft",
    "near_field",
    "near_field_adjoint",
    "propagate",
    "propagate_adjoint",
}
TRANSFORMS |= {f"{inverse}{real}fft{axes}" for inverse in ("", "i") for real in ("", "r") for axes in ("", "2", "n")}

ALLOWED = {
    "data/beam.py": "the probe behind a stated aperture",
    "data/detector.py": "a probe on smaller or larger detectors",
    "diagnostics/checks.py": "the symmetry of a mean pattern",
    "diagnostics/orientation.py": "a probe at other defoci",
    "diagnostics/sidebands.py": "the aperture of a probe, and a probe at other defoci",
    "diagnostics/statistics.py": "a first guess of the probe from the mean pattern",
    "evaluation/aberrations.py": "the aperture of a probe",
    "evaluation/align.py": "registration of images",
    "evaluation/frc.py": "spectra of images",
    "evaluation/crystal.py": "the spectrum of a phase",
    "evaluation/lattice.py": "the spectrum of a phase, and the structure factor of the positions",
    "evaluation/through_focus.py": "a probe along the beam",
    "formats/_near_field.py": "the guess of a probe, brought back from the detector",
    "images.py": "the phase ramp of an image",
    "refinement/starts.py": "a probe at other defoci",
    "simulation/natural.py": "samples that are fractal fields",
    "simulation/probes.py": "the probe behind a lens",
    "studies/data.py": "a probe with a wrong defocus",
}
"""Modules outside `ptycho.physics` that take transforms, and of what: none of an exit wave."""

TO_DO: set[str] = set()
"""Modules with a model of their own, or that use the old one: they go over to `ptycho.physics.forward` one by one."""

PROPAGATION = {
    "physics/forward.py": {"propagate", "propagate_adjoint", "dft", "inverse_dft"},
    "physics/interaction.py": {"near_field", "near_field_adjoint"},
    "physics/propagation.py": {"dft", "inverse_dft", "near_field", "near_field_adjoint", "fft2", "ifft2"},
    "physics/detection.py": {"fft2", "ifft2"},
    "physics/fourier.py": {"dft", "inverse_dft", "fft2", "ifft2"},
}
"""Within `ptycho.physics` only the forward model brings waves to the detector."""


def transforms(source: str) -> Iterator[str]:
    """Names of Fourier transforms and propagations that a module calls or imports, and the old model's module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            if name in TRANSFORMS:
                yield name
        elif isinstance(node, ast.ImportFrom):
            if node.module == "ptycho.physics.diffraction":
                yield "diffraction"
            yield from (entry.name for entry in node.names if entry.name in TRANSFORMS)


def modules() -> dict[str, set[str]]:
    """The transforms of each module that has some, by its path in the package."""
    found = {path.relative_to(PACKAGE).as_posix(): set(transforms(path.read_text())) for path in PACKAGE.rglob("*.py")}
    return {path: names for path, names in found.items() if names}


def test_no_other_module_computes_expected_counts():
    outside = {path: names for path, names in modules().items() if path not in PROPAGATION}
    assert outside.keys() - ALLOWED.keys() == TO_DO


def test_modules_that_may_take_transforms_do():
    """The list of exceptions is no longer than it has to be."""
    assert ALLOWED.keys() <= modules().keys()


def test_within_the_physics_the_forward_model_alone_reaches_the_detector():
    used = {path: names for path, names in modules().items() if path.startswith("physics/") and path not in TO_DO}
    assert used.keys() == PROPAGATION.keys()
    for path, names in used.items():
        assert names <= PROPAGATION[path], path


@pytest.mark.parametrize(
    "second",
    [
        "counts = np.abs(np.fft.fft2(probe * patch)) ** 2",
        "from ptycho.physics.fourier import dft as transform\ncounts = intensity(transform(waves))",
        "from scipy.fft import fftn",
        "waves = backend.fft2(exit_waves)",
        "import scipy.fft as transform\nwaves = transform.ifft2(spectrum)",
        "from ptycho.physics import propagation\nwaves = propagation.near_field(waves, transfer)",
    ],
)
def test_a_second_model_would_be_seen(second):
    assert set(transforms(second))


def test_configs_and_names_of_the_near_field_are_no_model():
    assert not set(transforms("near_field = scan.near_field\nfrom ptycho.config import NearField"))
