"""Settings as values: frozen dataclasses, one per stage, validated when made, JSON in and out.

There is no global configuration. A function takes the piece it needs; a change makes a new value
(`dataclasses.replace`). A `RunConfig` holds what a run sets otherwise than the defaults; presets are at the end.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from typing import Any, Literal, Self, TypeVar, get_args

from ptycho.deprecation import renamed_fields
from ptycho.typed import Config

ArchitectureName = Literal["consensus", "single", "cnn"]
Precision = Literal["float32", "mixed_bfloat16", "auto"]
AmplitudeActivation = Literal["sigmoid", "softplus", "exp"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """What a network is: fixed when it is built, saved with it."""

    N: int
    """Side of the detector frames in pixels, even or odd, 16 to 512."""
    gridsize: int = 6
    """Frames are trained on in groups of gridsize x gridsize neighbours."""
    architecture: ArchitectureName = "consensus"
    """``consensus``: stages that step by step change one object to fit all the frames of a group or scan. ``single``:
    the same for each frame on its own; patches are merged afterwards. ``cnn``: one encoder-decoder from amplitudes
    to a patch, as in the first physics-informed networks."""
    stages: int = 8
    """Number of stages."""
    width: int = 16
    """Channels of the first level of each stage; deeper levels have twice and four times as many."""
    probe_modes: int = 1
    """Incoherent probe modes M."""
    probe_trainable: bool = False
    """Learn the probe along with the network."""
    scale_trainable: bool = False
    """Learn one factor between the photons of the probe and the counts."""
    amplitude_activation: AmplitudeActivation = "exp"
    """How a network output becomes an amplitude; ``sigmoid`` cannot exceed 1."""
    precision: Precision = "float32"
    """``mixed_bfloat16`` computes the convolutions in bfloat16; the physics stays in float32. ``auto``: so where the
    machine is faster with it, which is found when the network is built."""
    seed: int = 0
    """Seed of the initial weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(16 <= self.N <= 512, "N", "16 to 512 pixels")
        self._require(1 <= self.gridsize <= 8, "gridsize", "1 to 8")
        self._require(1 <= self.stages <= 32, "stages", "1 to 32")
        self._require(1 <= self.width <= 512, "width", "1 to 512")
        self._require(1 <= self.probe_modes <= 64, "probe_modes", "1 to 64")

    @property
    def memory(self) -> int:
        """Channels that a stage leaves to the next one."""
        return self.width // 2

    @property
    def channels(self) -> int:
        """Frames in a group, C = gridsize**2."""
        return self.gridsize**2


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """How a network is trained."""

    epochs: int | None = None
    """Passes over the data at most. None: as many as show the network about ``total_frames`` frames."""
    total_frames: int | None = None
    """Frames to show in all when ``epochs`` is None, whatever the size of the scan: of a large one an epoch is a part.
    None: 60 000, or fewer where N is above 64 (60 000 (64 / N)^2): a few minutes on two cores."""
    batch_groups: int | None = None
    """Groups per step. None: as many as make about 36 frames."""
    learning_rate: float = 2e-3
    """First step size of Adam; falls to zero along half a cosine, and by half wherever validation stalls."""
    thinning: float = 0.8
    """Part of the photons of each frame that the network sees in training, drawn anew each time; its object is judged
    by the others, whose noise is independent: what fits the noise of the seen ones does not pay. 1: all photons are
    both seen and judged by."""
    augment: bool = True
    """Show the network each group in a random one of the 16 views under which diffraction looks the same."""
    nll_weight: float = 1.0
    """Weight of the Poisson negative log-likelihood of the counts, over their mean."""
    mae_weight: float = 0.0
    """Weight of the mean absolute error of the amplitudes, over their mean."""
    tv_weight: float = 0.0
    """Weight of the total variation of the merged object."""
    realspace_weight: float = 0.0
    """Weight of the mean absolute error against the true object, up to a global phase; needs scans that carry one."""
    validation_fraction: float = 0.05
    """Part of the frames held out in whole groups to judge the training by; 0 for none."""
    patience: int = 8
    """Epochs without a better validation loss after which the step size is halved; after twice as many, training
    stops."""
    seed: int = 0
    """Seed of the grouping and the order of the groups."""
    jit_compile: bool = False
    """Compile the training step with XLA (TensorFlow; JAX always does)."""
    devices: int = 1
    """Devices that share each step, in whole groups; TensorFlow and JAX. ``batch_groups`` is then a multiple of it."""

    def frames_to_show(self, N: int) -> int:
        """Frames of N x N pixels to show in all when ``epochs`` is None."""
        return self.total_frames or min(60_000, 60_000 * 64**2 // N**2)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.epochs is None or self.epochs >= 0, "epochs", "0 or more, or None")
        self._require(self.total_frames is None or self.total_frames > 0, "total_frames", "more than 0, or None")
        self._require(self.batch_groups is None or self.batch_groups >= 1, "batch_groups", "1 or more, or None")
        self._require(0 < self.thinning <= 1, "thinning", "more than 0, up to 1")
        self._require(0 <= self.validation_fraction < 1, "validation_fraction", "0 to 1")
        self._require(self.patience >= 1, "patience", "1 or more")
        self._require(self.devices >= 1, "devices", "1 or more")
        divisible = (self.batch_groups or self.devices) % self.devices == 0
        self._require(divisible, "batch_groups", f"a multiple of devices ({self.devices}): a group is not split")
        self._require(self.learning_rate > 0, "learning_rate", "more than 0")
        weights = ("nll_weight", "mae_weight", "tv_weight", "realspace_weight")
        for name in weights:
            self._require(getattr(self, name) >= 0, name, "0 or more")
        self._require(any(getattr(self, n) > 0 for n in weights), "nll_weight", "one loss weight above 0 at least")


NearFieldKind = Literal["fresnel", "angular-spectrum"]
NEAR_FIELD_KINDS = get_args(NearFieldKind)


@dataclass(frozen=True, kw_only=True)
class NearField(Config):
    """The way from the sample to a detector that is not in the far field; lengths in object pixels.

    For light that comes from a point (a magnified near field) it is the equivalent parallel beam: the pixel as it is
    on the sample, and the distance over the magnification.
    """

    distance_px: float
    """From the sample to the detector; negative where light is followed back."""
    wavelength_px: float
    """Wavelength."""
    kind: NearFieldKind = "angular-spectrum"
    """``angular-spectrum`` is exact; ``fresnel`` is for small angles."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("distance_px", "wavelength_px"):
            self._require(math.isfinite(getattr(self, name)), name, "a finite number of object pixels")
        self._require(self.distance_px != 0, "distance_px", "another than 0: right behind the sample no phase is seen")
        self._require(self.wavelength_px > 0, "wavelength_px", "more than 0 object pixels")


@dataclass(frozen=True, kw_only=True)
class Multislice(Config):
    """A thick sample as slices with vacuum between them; lengths in object pixels."""

    slices: int
    """Number of slices."""
    spacing_px: float
    """From one slice to the next, along the beam."""
    wavelength_px: float
    """Wavelength."""
    kind: NearFieldKind = "angular-spectrum"
    """Free space between slices: ``angular-spectrum`` is exact; ``fresnel`` is for small angles."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(2 <= self.slices <= 256, "slices", "2 to 256")
        for name in ("spacing_px", "wavelength_px"):
            value = getattr(self, name)
            self._require(math.isfinite(value) and value > 0, name, "a finite number of object pixels above 0")


ObjectKind = Literal["cells", "siemens", "lines", "gold_balls", "leaves", "fractal", "weave"]


@dataclass(frozen=True, kw_only=True)
class SimulationConfig(Config):
    """A simulated scan with known truth."""

    N: int = 64
    """Side of the detector frames in pixels."""
    positions: int = 529
    """Number of scan positions asked for; a raster takes the nearest full grid."""
    step_px: float = 8.0
    """Distance of neighbouring positions in object pixels."""
    jitter_px: float = 2.0
    """Random displacement of each position, uniform in +-jitter_px, against the raster artefact."""
    integer_positions: bool = False
    """Round positions to whole object pixels."""
    trajectory: Literal["raster", "spiral"] = "raster"
    """``raster``: a jittered grid in row order. ``spiral``: a Fermat spiral of the same density."""
    object_kind: ObjectKind = "cells"
    """What the sample looks like (`ptycho.simulation.objects.make_object`)."""
    photons: float = 1e5
    """Photons in the probe per frame; an absorbing object lets fewer through to the detector."""
    probe_diameter: float = 0.55
    """Second-moment (D4-sigma) diameter as a part of N; that of a uniform disc is its diameter."""
    defocus: float | None = None
    """Phase of the probe in waves from its centre to its edge; the larger, the wider the far field. None: as
    much as spreads the far field over a third of the detector."""
    probe_modes: int = 1
    """Incoherent probe modes; mode m carries half the photons of mode m - 1."""
    noise: bool = True
    """Draw Poisson counts; False keeps the expected ones (float32)."""
    near_field: NearField | None = None
    """Where the detector is, if it is not in the far field: a `NearField`, in files a table of its settings."""
    multislice: Multislice | None = None
    """A thick sample, its slices made one by one as ``object_kind`` says; in files a table of settings. None: thin."""
    seed: int = 0
    """Seed of the object, of the positions and of the noise, which draw independently of each other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(16 <= self.N <= 512, "N", "16 to 512 pixels")
        self._require(self.positions >= 2, "positions", "2 or more")
        self._require(self.step_px > 0, "step_px", "more than 0 pixels")
        self._require(self.jitter_px >= 0, "jitter_px", "0 or more pixels")
        self._require(self.photons > 0, "photons", "more than 0 photons a frame")
        self._require(0 < self.probe_diameter <= 1, "probe_diameter", "0 to 1")
        self._require(1 <= self.probe_modes <= 64, "probe_modes", "1 to 64")
        self._require(self.seed >= 0, "seed", "0 or more")


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig(Config):
    """Simulated scans to learn from, with ranges from which each draws its own."""

    scans: int = 120
    """Number of scans."""
    frames: int = 144
    """Frames in each."""
    probe_diameter: tuple[float, float] = (0.35, 0.7)
    """Second-moment diameter of the probe as a part of N."""
    step: tuple[float, float] = (0.12, 0.3)
    """Distance of neighbouring positions as a part of the probe's diameter."""
    photons: tuple[float, float] = (1e3, 1e6)
    """Photons per frame; drawn evenly in their logarithm."""
    seed: int = 0
    """Seed of everything that is drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.scans >= 1, "scans", "1 or more")
        self._require(self.frames >= 9, "frames", "9 or more")
        for name, most in (("probe_diameter", 1.0), ("step", float("inf")), ("photons", float("inf"))):
            low, high = getattr(self, name)
            self._require(0 < low <= high <= most, name, f"(low, high) with 0 < low <= high <= {most}")


RefineMethod = Literal["cg", "lsqml", "rpie", "adam"]
Noise = Literal["amplitude", "poisson"]


@renamed_fields
@dataclass(frozen=True, kw_only=True)
class RefineConfig(Config):
    """How object, probe and nuisance parameters are fitted to the counts.

    The fields that end in ``_from`` name the epoch, from 1 on, from which an unknown is fitted; None: never.
    """

    method: RefineMethod = "cg"
    """``cg``: conjugate gradients over all frames at once, after a few epochs of ``lsqml`` where there is nothing to
    start from. ``lsqml``, ``rpie`` and ``adam`` change object and probe batch after batch."""
    noise: Noise = "amplitude"
    """Least squares of amplitudes, or the Poisson likelihood of the counts."""
    epochs: int = 300
    """Passes over the frames at most. A fit stops before, where the held-out frames are not fitted better any more.
    From 72 on one of the object alone may take as many again from where reflected projections lead (decision 18)."""
    probe_from: int | None = None
    """The probe, all its modes."""
    focus: bool = True
    """Before a fit from empty space, look for the defocus of a probe that is only a guess, and for the powers of its
    modes."""
    positions_from: int | None = None
    """The position of each frame (``cg``)."""
    affine_from: int | None = None
    """One linear map of all positions: scale, rotation and shear (``cg``). Scale and rotation are looked for before a
    fit from empty space, and before one from an image unless ``focus`` is off."""
    rotation_from: int | None = None
    """One rotation of all positions, whose distances are known (``cg``); looked for as that of the affine map."""
    background_from: int | None = None
    """Counts that do not come from the sample, the same in all frames (``cg``)."""
    opr_from: int | None = None
    """Change of the probe's first mode from frame to frame (``cg``)."""
    opr_modes: int = 1
    """Modes that the probe varies by, 1 to 3."""
    blur_from: int | None = None
    """Width of the detector's Gaussian point-spread function (``cg``)."""
    background_blur_px: float = 0.0
    """Detector pixels over which the background is smooth; 0: each pixel has its own."""
    multislice: Multislice | None = None
    """A thick sample, fitted slice by slice; in files a table of settings. None: a thin one."""
    tv_weight: float = 0.0
    """Total variation of the object, in units of the light on it."""
    l2_weight: float = 0.0
    """Squared distance of the object from the image that the fit starts from, in units of the light on it."""
    h1_weight: float = 0.0
    """The same of the gradient of their difference: details stay near, slow changes are free."""
    red_weight: float = 0.0
    """Squared distance of the object from what a network makes of it, which takes out noise (``cg``); in units of the
    light on it."""
    flat_weight: float = 0.0
    """Squared distance of the object from its mean (``cg``), in units of the light on it: takes out the slow phase that
    few photons leave open."""
    slow_phase: int = 0
    """Epochs at the end in which the slow phase alone follows the counts, which the priors hold back (``cg``, a thin
    sample, no ``flat_weight``); taken where held-out frames are predicted better."""
    amplitude_bound: float | None = None
    """Largest amplitude of the object; None: any."""
    probe_support: float | None = None
    """Diameter, as a part of N, of the disc outside which the probe is zero; None: it may be anywhere."""
    batch_frames: int | None = None
    """Frames in a batch of the stochastic methods; None: a sixteenth of all."""
    batching: Literal["compact", "random"] = "compact"
    """Batches of frames as far from each other as can be, or drawn at random."""
    held_out: float = 0.05
    """Part of the frames kept from the fit, to tell when it is at its best."""
    patience: int = 8
    """Epochs without a better misfit of the held-out frames after which it stops."""
    tolerance: float = 5e-4
    """Part of the held-out misfit by which it has to fall to be better; two units of log-likelihood at least."""
    seed: int = 0
    """Seed of the order of the frames, and of which are held out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.epochs >= 1, "epochs", "1 or more")
        for name in UNKNOWNS:
            value = getattr(self, f"{name}_from")
            self._require(value is None or value >= 1, f"{name}_from", "1 or more, or None")
            self._require(
                value is None or name == "probe" or self.method == "cg", f"{name}_from", f"None with {self.method}"
            )
        self._require(1 <= self.opr_modes <= 3, "opr_modes", "1 to 3")
        for name in ("background_blur_px", "tv_weight", "l2_weight", "h1_weight", "red_weight", "flat_weight"):
            self._require(getattr(self, name) >= 0, name, "0 or more")
        self._require(self.slow_phase >= 0, "slow_phase", "0 or more")
        for name in ("red_weight", "flat_weight", "slow_phase"):
            self._require(self.method == "cg" or not getattr(self, name), name, f"0 with {self.method}")
        self._require(self.amplitude_bound is None or self.amplitude_bound > 0, "amplitude_bound", "above 0, or None")
        self._require(self.probe_support is None or self.probe_support > 0, "probe_support", "above 0, or None")
        self._require(self.batch_frames is None or self.batch_frames >= 1, "batch_frames", "1 or more, or None")
        self._require(0 <= self.held_out < 0.5, "held_out", "0 up to 0.5")
        self._require(self.patience >= 1, "patience", "1 or more")
        self._require(self.tolerance >= 0, "tolerance", "0 or more")

    @property
    def maps_positions(self) -> bool:
        """Whether one map of all positions is fitted."""
        return self.affine_from is not None or self.rotation_from is not None


UNKNOWNS = tuple(f.name.removesuffix("_from") for f in fields(RefineConfig) if f.name.endswith("_from"))
"""What a `RefineConfig` can fit beside the object."""


STEP_UNITS: dict[str, float] = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "nm": 1e-9, "A": 1e-10, "pm": 1e-12, "px": math.nan}
"""Metres of each; how many an object pixel has is not known here."""
DETECTOR_UNITS = ("m", "mm", "um", "rad", "mrad", "1/m", "1/nm", "1/A")


def lattice_constants(text: str) -> tuple[float, ...]:
    """The constant in A, or a, b and the angle in degrees; nothing where it is neither."""
    try:
        numbers = tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        return ()
    sound = len(numbers) in (1, 3) and all(math.isfinite(number) and number > 0 for number in numbers)
    return numbers if sound and (len(numbers) == 1 or numbers[2] < 180) else ()


@dataclass(frozen=True, kw_only=True)
class ReadConfig(Config):
    """What the user knows of a scan file; it wins over what the file says. None: the file's own, if it has any."""

    scan_shape: tuple[int, int] | None = None
    """Rows and columns of a raster scan, flyback left out."""
    scan_step: tuple[float, str] | None = None
    """Distance of neighbouring scan points of a raster and its unit: 0.4 A, 50 nm, 1 um, or 6 px (object pixels)."""
    energy_ev: float | None = None
    """Energy of the photons in eV."""
    voltage_kv: float | None = None
    """Acceleration voltage of the electrons in kV."""
    distance_m: float | None = None
    """Distance from the sample to the detector in metres."""
    detector_pixel: tuple[float, str] | None = None
    """Side of a detector pixel and its unit: 75 um (with energy and distance), 0.9 mrad (with energy), 0.05 1/A."""
    pixel_size_nm: float | None = None
    """Side of an object pixel in nm, where the file does not tell."""
    scan_rotation_deg: float | None = None
    """Angle in degrees by which positions (y, x) are turned to lie as the frames do: y' = y cos - x sin."""
    orientation: int | None = None
    """How frames are turned, by PtyPy's codes: 1 flips left-right, 2 up-down, 4 transposes before, and their sums."""
    semiangle_mrad: float | None = None
    """Convergence semi-angle in mrad: the probe starts as the image of a round aperture."""
    defocus_a: float | None = None
    """Defocus of the probe in angstrom, positive in underfocus (C10 = -defocus); it is refined all the same."""
    lattice: str | None = None
    """The lattice of a crystal in the sample, by which the pixel size is checked: a constant in angstrom (3.905), or
    a, b and the angle between them ("3.16, 3.16, 120")."""
    gain: float | None = None
    """Detector units per photon or electron, by which the frames are divided."""
    frames: str | None = None
    """Frames that are read, as START:STOP or START:STOP:STEP, counted from 0."""
    flyback: int | None = None
    """Frames at the end of each row of a raster that are left out."""
    position_unit: Literal["m", "mm", "um", "nm", "A", "pm", "px"] | None = None
    """Unit of the positions in the file, where it is not written or wrong; px are object pixels."""
    focus_m: float | None = None
    """Distance from the focus to the sample in metres, negative where the sample is before the focus: the detector is
    in the magnified near field."""
    near_field_m: float | None = None
    """Distance from the sample to a detector in the near field of parallel light, in metres."""
    drop_unplaced: bool | None = None
    """Where frames and positions differ in number, read the first of both."""
    pedestal: float | None = None
    """Counts that the detector has without light, subtracted from all."""
    dataset: str | None = None
    """Name of the array with the frames, where the file holds several."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("energy_ev", "voltage_kv", "distance_m", "near_field_m", "pixel_size_nm", "semiangle_mrad", "gain")
        for name in positive:
            value = getattr(self, name)
            self._require(value is None or (math.isfinite(value) and value > 0), name, "a finite number above 0")
        for name in ("scan_rotation_deg", "defocus_a", "pedestal"):
            value = getattr(self, name)
            self._require(value is None or math.isfinite(value), name, "a finite number")
        for name, units in (("scan_step", STEP_UNITS), ("detector_pixel", DETECTOR_UNITS)):
            value = getattr(self, name)
            valid = value is None or (value[0] > 0 and math.isfinite(value[0]) and value[1] in units)
            self._require(valid, name, f"a number above 0 and one of {', '.join(units)}")
        self._require(self.scan_shape is None or min(self.scan_shape) >= 1, "scan_shape", "rows and columns, 1 or more")
        self._require(self.energy_ev is None or self.voltage_kv is None, "voltage_kv", "None beside energy_ev")
        self._require(self.focus_m is None or (math.isfinite(self.focus_m) and self.focus_m != 0), "focus_m", "not 0")
        self._require(self.focus_m is None or self.near_field_m is None, "near_field_m", "None beside focus_m")
        self._require(self.orientation is None or 0 <= self.orientation <= 7, "orientation", "0 to 7")
        cell = self.lattice is None or lattice_constants(self.lattice)
        self._require(bool(cell), "lattice", "a constant in A, or a, b in A and the angle between them in degrees")
        self._require(self.flyback is None or self.flyback >= 0, "flyback", "0 or more")
        self._require(
            self.frames is None or re.fullmatch(r"-?\d*:-?\d*(:\d+)?", self.frames) is not None,
            "frames",
            "START:STOP or START:STOP:STEP",
        )

    @property
    def chosen_frames(self) -> slice:
        """``frames`` as a slice."""
        return slice(*(int(text) if text else None for text in (self.frames or ":").split(":")))

    @property
    def near(self) -> bool:
        """Whether the user says that the detector is in the near field."""
        return self.focus_m is not None or self.near_field_m is not None

    def stated(self) -> dict[str, Any]:
        """The settings that are not None, ready for JSON."""
        return {name: value for name, value in self.to_dict().items() if value is not None}


Section = Literal["model", "training", "simulation", "pretraining", "refine", "reading"]
SECTIONS: dict[Section, type[Config]] = dict(
    model=ModelConfig,
    training=TrainingConfig,
    simulation=SimulationConfig,
    pretraining=PretrainingConfig,
    refine=RefineConfig,
    reading=ReadConfig,
)
"""The sections of a `RunConfig`, and whose fields each of them sets."""

Value = bool | int | float | str | tuple[float, ...] | tuple[str, ...] | Config | None
Values = dict[str, Value]
"""Some of the fields of a config, by name."""

C = TypeVar("C", bound=Config)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Settings that differ from the defaults, by section: what ``run.toml`` holds and the options change.

    Each value has the type of its field; whether all of them fit together shows when a config is made of them
    (`make`).
    """

    model: Values = field(default_factory=dict)
    """Settings of `ModelConfig`; N and the probe modes follow from the scan."""
    training: Values = field(default_factory=dict)
    """Settings of `TrainingConfig`."""
    simulation: Values = field(default_factory=dict)
    """Settings of `SimulationConfig`."""
    pretraining: Values = field(default_factory=dict)
    """Settings of `PretrainingConfig`."""
    refine: Values = field(default_factory=dict)
    """Settings of `RefineConfig`."""
    reading: Values = field(default_factory=dict)
    """Settings of `ReadConfig`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for section, config in SECTIONS.items():
            object.__setattr__(self, section, config.checked(getattr(self, section)))

    @classmethod
    def from_toml(cls, path: str | PathLike) -> Self:
        """Read a file with the sections ``[model]``, ``[training]``, ``[simulation]``, ``[pretraining]``,
        ``[refine]``, ``[reading]``."""
        with open(path, "rb") as file:
            try:
                return cls.from_dict(tomllib.load(file))
            except tomllib.TOMLDecodeError as error:
                raise ValueError(f"{path} is no TOML ({error})") from error
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: {error}") from error

    def updated(self, section: Section, values: Mapping[str, Value]) -> Self:
        """These settings with some of a section's replaced; a value None changes nothing."""
        changes = {key: value for key, value in values.items() if value is not None}
        return replace(self, **{section: getattr(self, section) | SECTIONS[section].checked(changes)})

    def over(self, section: Section, defaults: Mapping[str, Value]) -> Self:
        """These settings, and of a section also those defaults that they do not set."""
        return replace(self, **{section: dict(defaults) | getattr(self, section)})

    def make(self, config: type[C], **defaults: Value) -> C:
        """The config of a section: what is set here, over the defaults given, over those of the config."""
        (section,) = (name for name, of in SECTIONS.items() if of is config)
        return config.from_dict(defaults | getattr(self, section))


Preset = Literal["best", "fast"]
PRESETS: dict[Preset, Values] = dict(best={}, fast=dict(architecture="single", stages=1, width=8, precision="auto"))
"""Settings of a `ModelConfig` by purpose: the best image, or frames one by one as fast as they come."""

PRETRAINING: Values = dict(total_frames=100_000, realspace_weight=1.0, nll_weight=0.1, validation_fraction=0.03)
"""Training on simulated scans: the truth is known and should be used."""

ADAPTING: Values = dict(learning_rate=5e-4)
"""Training that starts from a trained network: what that knows of slow phases, which the counts of one scan hardly
tell, is washed out by larger steps."""

DEMO: Values = dict(total_frames=6000)
"""Training of the demo, so that it takes about a minute and a half on two cores."""

DEFERRED: Values = {f.name: 8 for f in fields(RefineConfig) if f.name.endswith("_from")}
"""Epochs from which ``ptycho refine`` fits the unknowns that its flags name: they need fine structure in the object."""
