"""A ptychography scan as one immutable value, checked when it is made.

The counts keep the dtype they were recorded in, and all statistics are computed chunk by chunk, so that a scan never
costs a second copy of its stack. The module needs numpy only, so that readers and ``ptycho info`` start fast.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ptycho.arrays import Array, Bool, Complex, Float, Real
from ptycho.config import NearField, ReadConfig
from ptycho.data.beam import Beam
from ptycho.data.detector import (
    bin_contrast,
    binned_counts,
    binned_mask,
    binned_probe,
    coarser,
    cropped_probe,
    window,
)
from ptycho.data.frames import Counts, StoredFrames, chunks, mapped, mean_pattern
from ptycho.deprecation import renamed_attribute


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Scan:
    """Diffraction patterns, where each was taken, and the probe they were taken with.

    Arrays are kept as read-only views; the arrays passed in are neither copied (where their dtype fits) nor
    made read-only themselves. A bad value raises ValueError that names the field, the value and the remedy.
    """

    counts: Counts
    """(P, N, N) photon counts (intensity), any real numeric dtype, zero frequency at pixel ``N // 2``; in the near
    field the pixel straight behind that of the probe. `StoredFrames` are read when they are asked for."""
    positions: Float[Array, "P 2"]
    """float64 (y, x): the object pixel, with sub-pixel part, under probe pixel ``(N // 2, N // 2)``."""
    probe: Complex[Array, "M N N"]
    """complex64 in sqrt(photons); an (N, N) probe is taken as one mode."""
    mask: Bool[Array, "N N"] = None
    """True where a detector pixel is used; None uses all of them, and becomes an array."""
    object: Complex[Array, "H W"] | None = None
    """complex64: the true transmission, in whose pixels the positions are; None where it is not known."""
    pixel_size_m: float | None = None
    """Side of an object pixel, for scale bars; no computation uses it."""
    beam: Beam | None = None
    """Energy, particle and distance, kept for files in metres; no computation uses it."""
    probe_known: bool = True
    """False: the probe is a guess in arbitrary units, to be rescaled to the counts and refined with the object."""
    near_field: NearField | None = None
    """Distance of a detector in the near field; None: far field."""
    source: str = ""
    """The file or simulation that the scan came from, for people."""
    notes: tuple[str, ...] = ()
    """Sentences about the data for the user: what a reader assumed, noticed or left out."""
    reading: ReadConfig | None = None
    """What the user told the reader of ``source``, for the record of a run; no computation uses it."""

    def __post_init__(self) -> None:
        counts = _checked_counts(self.counts)
        frames, N = counts.shape[:2]
        self._set("counts", counts)
        self._set("positions", _checked_positions(self.positions, frames))
        self._set("probe", _checked_probe(self.probe, N))
        self._set("mask", _checked_mask(self.mask, N))
        self._set("object", _checked_object(self.object, self.positions))
        self._set("pixel_size_m", checked_pixel_size(self.pixel_size_m))
        self._set("notes", _checked_notes(self.notes))
        if not (self.beam is None or isinstance(self.beam, Beam)):
            raise ValueError(f"Scan.beam is {self.beam!r}; expected a Beam, or None where it is not known")
        if not (self.near_field is None or isinstance(self.near_field, NearField)):
            raise ValueError(f"Scan.near_field is {self.near_field!r}; expected a NearField, or None for the far field")
        if not any(chunk[:, self.mask].any() for chunk in chunks(counts)):  # mostly the first chunk decides
            raise ValueError(
                f"Scan.counts is 0 in every used pixel of all {frames} frames; check that the right data set "
                "was read and that the mask is True where a pixel is used (invert it if not)"
            )

    def _set(self, name: str, value: Any) -> None:
        if isinstance(value, np.ndarray):
            # A view, so that the caller's own array stays writable
            value = value.view()
            value.flags.writeable = False
        object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.counts)

    def __repr__(self) -> str:
        kind = "known" if self.probe_known else "guessed"
        return (
            f"Scan({len(self)} frames of {self.N} x {self.N} {self.counts.dtype}, "
            f"{self.mean_counts:.3g} counts a frame, {kind} probe of {self.modes} mode(s), "
            f"source={self.source!r})"
        )

    def _repr_html_(self) -> str:
        """A pattern, the probe and the positions, as a notebook shows them."""
        from ptycho.images import captioned_png, thumbnails

        pattern = np.log10(self.counts[len(self) // 2].astype(np.float32) + 1)
        amplitude = np.sqrt(illumination(self.probe))
        pictures = {"pattern, log10(counts + 1)": (pattern, "magma"), "probe (sqrt photons)": (amplitude, "viridis")}
        return captioned_png(thumbnails(pictures, self.positions), "a pattern, the probe and the positions", repr(self))

    @property
    def N(self) -> int:
        """Side of the frames in pixels."""
        return self.counts.shape[-1]

    @property
    def modes(self) -> int:
        """Incoherent probe modes M."""
        return len(self.probe)

    @cached_property
    def transfer(self) -> Complex[Array, "N N"] | None:
        """Transfer function of the near field (`transfer_function`), complex64; None for the far field."""
        if self.near_field is None:
            return None
        from ptycho.physics.propagation import transfer_function

        near = self.near_field
        return transfer_function((self.N, self.N), near.distance_px, near.wavelength_px, near.kind)

    def require_far_field(self, users: str = "networks", instead: str = "refine the scan without one") -> None:
        """Raise ValueError for a scan in the near field, which its ``users`` (a plural) cannot take."""
        if self.near_field is not None:
            raise ValueError(f"Scan.near_field is {self.near_field}; {users} are for the far field only: {instead}")

    @cached_property
    def frame_counts(self) -> Float[Array, " P"]:
        """Total counts of each frame over the used pixels, float64."""
        used = self.mask.ravel().astype(np.float64)

        def totals(counts: Counts) -> np.ndarray:
            # A product with the mask: masked pixels are left out and summed over in one pass.
            return np.concatenate([chunk.reshape(len(chunk), -1).astype(np.float64) @ used for chunk in chunks(counts)])

        if isinstance(self.counts, StoredFrames):  # a pass over a large file: once for all scans made from it
            return self.counts.cached(f"totals {self.mask.tobytes().hex()}", totals)
        return totals(self.counts)

    @cached_property
    def mean_pattern(self) -> Float[Array, "N N"]:
        """Mean over the frames in every pixel, used or not; float64."""
        return mean_pattern(self.counts)

    @property
    def is_4dstem(self) -> bool:
        """Whether an electron microscope took the frames in the far field."""
        return self.near_field is None and self.beam is not None and self.beam.particle == "electron"

    @property
    def mean_counts(self) -> float:
        """Measured dose: mean total counts of a frame over the used pixels."""
        return float(self.frame_counts.mean())

    @property
    def photons(self) -> float:
        """``sum |probe|^2``: photons that fall on the sample per frame, if the probe is known."""
        return float(illumination(self.probe).sum())

    @cached_property
    def step_px(self) -> float:
        """Median distance in object pixels to the nearest other position; repeats count once; NaN for one."""
        from scipy.spatial import cKDTree

        distinct = np.unique(self.positions, axis=0)
        if len(distinct) == 1:
            return float("nan")
        # The nearest but one: the nearest is the position itself.
        distances, _ = cKDTree(distinct).query(distinct, k=2)
        return float(np.median(distances[:, 1]))

    @property
    def probe_diameter_px(self) -> float:
        """Diameter in object pixels of the disc of the probe's effective area ``(sum I)^2 / sum I^2``.

        I is the intensity summed over modes. The diameter of a uniform disc is its own, that of a Gaussian four
        standard deviations (the D4-sigma width of ISO 11146). There is no threshold, and faint wings count little.
        """
        intensity = illumination(self.probe)
        # Area A = (sum I)^2 / sum I^2 = pi d^2 / 4
        return float(2 * np.sqrt(intensity.sum() ** 2 / (intensity**2).sum() / np.pi))

    @property
    def overlap(self) -> float:
        """Linear overlap of neighbouring probe positions, ``1 - step / diameter``; below 0 there are gaps."""
        return 1 - self.step_px / self.probe_diameter_px

    def subset(self, index: Any) -> "Scan":
        """The frames that a slice, a list of indices or a (P,) bool mask picks, in that order.

        A view: a slice of an array is one too, anything else is read from this scan's frames when it is asked for
        (`StoredFrames`). Raises ValueError for none.
        """
        if not isinstance(index, slice):
            index = np.atleast_1d(np.asarray(index))
            index = index if index.size else slice(0)
        slice_of_array = isinstance(index, slice) and not isinstance(self.counts, StoredFrames)
        counts = self.counts[index] if slice_of_array else StoredFrames.of(self.counts).picked(index)
        return replace(self, counts=counts, positions=self.positions[index])

    def cropped(self, side: int) -> "Scan":
        """A view of the middle ``side x side`` detector pixels: object pixels become ``N / side`` times as large.

        Positions, true object and pixel size are converted; the probe is band-limited to what would reach these pixels
        without a sample. Raises ValueError for another number than 2 to N, and in the near field.
        """
        if side == self.N:
            return self
        self.require_far_field("cropped frames", "leave them as they are")
        if not 2 <= side <= self.N:
            raise ValueError(f"frames of {self.N} pixels cannot be cropped to {side}; expected 2 to {self.N}")
        # Object pixel = wavelength distance / (N detector pixel): fewer detector pixels, larger object pixels
        scale = side / self.N
        return replace(
            self,
            counts=mapped(self.counts, window, side),
            positions=self.positions * scale,
            probe=cropped_probe(self.probe, side),
            mask=window(self.mask, side),
            object=None if self.object is None else coarser(self.object, self.N, side),
            pixel_size_m=None if self.pixel_size_m is None else self.pixel_size_m / scale,
            notes=(*self.notes, f"The frames were cropped from {self.N} to {side} pixels."),
        )

    def binned(self, k: int) -> "Scan":
        """A view of sums of ``k x k`` detector pixels: the window of the probe becomes ``N / k``, its pixels stay.

        A sum is used where all its pixels are; where N is no multiple of k the frames are `cropped` to one first. The
        forward model takes a sum for ``k^2`` times the counts at its centre: what of the probe lies beyond its new
        window is lost, and waves from opposite sides of the probe interfere with less contrast, as in a probe of more
        modes; a note says how much. Raises ValueError for another number than 1 to ``N // 2``, and in the near field.
        """
        if k == 1:
            return self
        self.require_far_field("binned frames", "leave them as they are")
        if not 1 <= k <= self.N // 2:
            raise ValueError(f"{k} x {k} of {self.N} x {self.N} pixels cannot be one; expected 1 to {self.N // 2}")
        if self.N % k:
            return self.cropped(self.N // k * k).binned(k)
        probe = binned_probe(self.probe, k)
        lost = 1 - illumination(probe).sum() / self.photons
        blurred = 1 - bin_contrast(self.N, k, self.probe_diameter_px)
        note = (
            f"{k} x {k} detector pixels were added up: {max(0.0, 100 * lost):.2g} % of the probe are beyond its "
            f"smaller window, and waves from its opposite sides lose {100 * blurred:.2g} % of their contrast."
        )
        return replace(
            self,
            counts=binned_counts(self.counts, k),
            probe=probe,
            mask=binned_mask(self.mask, k),
            notes=(*self.notes, note),
        )

    def held_out_mask(self, every: int, offset: int = 0) -> Bool[Array, " P"]:
        """True for frames ``offset``, ``offset + every``, ``offset + 2 every``, ..."""
        if not (every >= 2 and 0 <= offset < every):
            raise ValueError(f"every is {every} and offset {offset}; expected every >= 2 and 0 <= offset < every")
        return np.arange(len(self)) % every == offset

    withheld_mask = renamed_attribute("withheld_mask", "held_out_mask")

    def split(self, every: int, offset: int = 0) -> tuple["Scan", "Scan"]:
        """``(fitted, held_out)``: every ``every``-th frame from ``offset`` on is held out."""
        held_out = self.held_out_mask(every, offset)
        return self.subset(~held_out), self.subset(held_out)

    def with_probe(self, probe: Complex[Array, "..."], known: bool = True) -> "Scan":
        """The same scan with another probe, (M, N, N) or (N, N), in sqrt(photons) if it is known."""
        return replace(self, probe=probe, probe_known=known)

    def check_dose(self) -> str | None:
        """A sentence if a known probe and the counts cannot both be right, else None.

        No transmission is above 1, so a frame holds at most ``sum |probe|^2`` counts; a detector gain or a probe in
        other units breaks that. Far fewer counts than reach the used pixels without a sample are as suspicious.
        """
        if not self.probe_known:
            return None
        counts, photons = self.mean_counts, self.photons
        vacuum = float(vacuum_pattern(self.probe, self.transfer)[self.mask].sum())
        remedy = "check the units of both, or mark the probe as a guess (probe_known=False) to have it rescaled"
        if counts > 1.05 * photons:
            return (
                f"The frames hold {counts:.4g} counts on average, {counts / photons:.3g} times the "
                f"{photons:.4g} photons of the probe, and no sample amplifies; {remedy}."
            )
        if counts < 0.05 * vacuum:
            return (
                f"The frames hold {counts:.4g} counts on average, only {100 * counts / vacuum:.2g} % of the "
                f"{vacuum:.4g} photons that the probe sends to the used pixels without a sample; {remedy}."
            )
        return None


def illumination(probe: Complex[Array, "M N N"]) -> Float[Array, "N N"]:
    """``sum_m |P_m|^2``: photons on each object pixel, float64."""
    double = probe.astype(np.complex128)
    return (double.real**2 + double.imag**2).sum(axis=0)


def vacuum_pattern(
    probe: Complex[Array, "M N N"], transfer: Complex[Array, "N N"] | None = None
) -> Float[Array, "N N"]:
    """Counts expected without a sample, ``sum_m |F P_m|^2``, zero frequency at ``N // 2``; float64.

    With the transfer function of a near field, counts in it.
    """
    from ptycho.physics.forward import Diffraction, frame_probes

    probes, transfer = frame_probes(probe.astype(np.complex64), transfer=transfer)
    return np.asarray(Diffraction((), probes, transfer).expected, np.float64)


def _checked_counts(counts: Any) -> Counts:
    counts = counts if isinstance(counts, StoredFrames) else np.asarray(counts)
    if counts.ndim != 3 or counts.shape[1] != counts.shape[2]:
        raise ValueError(
            f"Scan.counts has shape {counts.shape}; expected (frames, N, N): crop or pad frames to a square, "
            "and give one scan at a time"
        )
    if counts.size == 0:
        raise ValueError(f"Scan.counts has shape {counts.shape}, which holds no frames; give at least one frame")
    if counts.shape[1] < 2:
        raise ValueError("Scan.counts has frames of one pixel, which hold no diffraction pattern; give whole frames")
    if counts.dtype.kind not in "uif":
        raise ValueError(
            f"Scan.counts has dtype {counts.dtype}; expected real numbers: photon counts, not complex waves"
        )
    if isinstance(counts, StoredFrames):
        if counts.dtype.kind != "u":
            counts.cached("valid", _all_valid)
        return counts
    counts = counts.astype(counts.dtype.newbyteorder("="), copy=False)
    if counts.dtype.kind != "u":
        _all_valid(counts)
    return counts


def _all_valid(counts: Counts) -> Bool[Array, " P"]:
    first = 0
    for chunk in chunks(counts):
        _require_valid_counts(chunk, first)
        first += len(chunk)
    return np.ones(len(counts), bool)


def _require_valid_counts(chunk: Real[Array, "B N N"], first: int) -> None:
    """The extremes decide (a NaN is both of them); the bad pixel is searched for only when one of them is bad."""
    # A NaN fails both comparisons.
    if chunk.min() >= 0 and chunk.max() < np.inf:
        return
    frame, y, x = np.argwhere(~((chunk >= 0) & (chunk < np.inf)))[0]
    raise ValueError(
        f"Scan.counts is {chunk[frame, y, x]} in frame {first + frame} at pixel ({y}, {x}); expected counts "
        "of 0 or more: set such pixels to 0 and make the mask False there (`counts[:, ~mask] = 0`), or "
        "subtract no more background than there is"
    )


def _checked_positions(positions: Any, frames: int, least_spread_px: float = 1e-3) -> Float[Array, "P 2"]:
    """Positions that spread less are one position, or metres given as pixels."""
    positions = np.asarray(positions)
    if positions.size == 0:
        raise ValueError("Scan.positions is empty; every frame needs its (y, x) in object pixels")
    if positions.shape != (frames, 2):
        raise ValueError(
            f"Scan.positions has shape {positions.shape}; expected ({frames}, 2), one (y, x) for each of the "
            f"{frames} frames" + ("; transpose it" if positions.shape == (2, frames) else "")
        )
    if positions.dtype.kind not in "uif":
        raise ValueError(f"Scan.positions has dtype {positions.dtype}; expected real numbers, object pixels")
    positions = positions.astype(np.float64)
    if not np.isfinite(positions).all():
        bad = int(np.argmin(np.isfinite(positions).all(axis=1)))
        raise ValueError(
            f"Scan.positions is {positions[bad].tolist()} for frame {bad}; leave out frames without a "
            "position (`scan.subset`, or index counts and positions alike)"
        )
    most = np.abs(positions).max()
    if np.spacing(most) > least_spread_px:
        raise ValueError(
            f"Scan.positions reach {most:.3g} pixels from 0, where numbers are {np.spacing(most):.2g} apart: subtract "
            "the smallest position, or check their unit (--position-unit)"
        )
    spread = np.ptp(positions, axis=0).max()
    if frames > 1 and spread < least_spread_px:
        raise ValueError(
            f"Scan.positions are all the same: {positions[0].tolist()} within {spread:.3g} pixels; expected "
            "object pixels: divide positions in metres by the pixel size, or tell the unit that a file has them in "
            "(--position-unit)"
        )
    return positions


def _checked_probe(probe: Any, N: int) -> Complex[Array, "M N N"]:
    probe = np.asarray(probe)
    if probe.ndim == 2:
        probe = probe[None]
    if probe.ndim != 3 or probe.shape[1:] != (N, N) or len(probe) == 0:
        raise ValueError(
            f"Scan.probe has shape {probe.shape}; expected (modes, {N}, {N}) like the frames: crop or pad "
            "the probe or the frames"
        )
    if probe.dtype.kind not in "uifc":
        raise ValueError(f"Scan.probe has dtype {probe.dtype}; expected complex numbers in sqrt(photons)")
    with np.errstate(over="ignore", invalid="ignore"):
        probe = probe.astype(np.complex64, copy=False)
    if not np.isfinite(probe).all():
        mode, y, x = np.argwhere(~np.isfinite(probe))[0]
        raise ValueError(
            f"Scan.probe is {probe[mode, y, x]} in mode {mode} at pixel ({y}, {x}); expected finite values: "
            "set bad pixels of the probe to 0"
        )
    if not probe.any():
        raise ValueError("Scan.probe is 0 everywhere; give a probe, or a guess of it with probe_known=False")
    return probe


def _checked_mask(mask: Any, N: int) -> Bool[Array, "N N"]:
    if mask is None:
        return np.ones((N, N), bool)
    mask = np.asarray(mask)
    if mask.shape != (N, N):
        raise ValueError(f"Scan.mask has shape {mask.shape}; expected ({N}, {N}), one mask for all frames")
    if mask.dtype != bool:
        raise ValueError(
            f"Scan.mask has dtype {mask.dtype}; expected bool, True where a pixel is used: `bad == 0` if bad "
            "pixels are not 0, `good != 0` if good ones are not"
        )
    if not mask.any():
        raise ValueError("Scan.mask is False everywhere; it is True where a pixel is used: invert it")
    return mask


def checked_image(image: Any, name: str = "Scan.object") -> Complex[Array, "H W"]:
    """A finite complex64 image, or ValueError with its name."""
    image = np.asarray(image)
    if image.ndim != 2 or image.dtype.kind not in "uifc" or not image.size:
        raise ValueError(f"{name} is {image.dtype} of shape {image.shape}; expected a complex (H, W) array")
    with np.errstate(over="ignore", invalid="ignore"):
        image = image.astype(np.complex64, copy=False)
    if not np.isfinite(image).all():
        y, x = np.argwhere(~np.isfinite(image))[0]
        raise ValueError(f"{name} is {image[y, x]} at pixel ({y}, {x}); expected a finite transmission")
    return image


def _checked_object(truth: Any, positions: Float[Array, "P 2"]) -> Complex[Array, "H W"] | None:
    if truth is None:
        return None
    truth = checked_image(truth)
    outside = ((positions < -0.5) | (positions > np.array(truth.shape) - 0.5)).any(axis=1)
    if outside.any():
        bad = int(np.argmax(outside))
        raise ValueError(
            f"Scan.positions is {positions[bad].tolist()} for frame {bad}, outside Scan.object of shape "
            f"{truth.shape}; positions are (y, x) in pixels of that object: swap or shift them, or give no "
            "object"
        )
    return truth


def checked_pixel_size(size: Any) -> float | None:
    """Metres above 0 as a float, or None."""
    if size is None:
        return None
    if not (np.ndim(size) == 0 and np.isfinite(size) and size > 0):
        raise ValueError(f"Scan.pixel_size_m is {size}; expected one number of metres above 0, or None")
    return float(size)


def _checked_notes(notes: Any) -> tuple[str, ...]:
    if isinstance(notes, str):
        raise ValueError(f"Scan.notes is the string {notes!r}; expected a tuple of sentences: `({notes!r},)`")
    return tuple(str(note) for note in notes)
