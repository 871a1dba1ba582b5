"""Complex images for display: cropped, without phase ramp, and as pictures in HTML. Needs no display."""

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptycho.arrays import Array, Complex, Float, Num

LIT = 0.1
"""Of the largest coverage: pixels with more are illuminated."""


def illuminated_region(coverage: Float[Array, "H W"]) -> tuple[slice, slice]:
    """The smallest box around all illuminated pixels."""
    illuminated = coverage > LIT * coverage.max()
    rows, columns = np.flatnonzero(illuminated.any(axis=1)), np.flatnonzero(illuminated.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def ramp_removed(image: Complex[Array, "H W"], subdivisions: int = 16) -> Complex[Array, "H W"]:
    """The image without its linear phase ramp and global phase, which ptychography cannot determine.

    The ramp ``exp(2 pi i (f_y y + f_x x))`` is the frequency at which the spectrum of the image peaks: for an object in
    vacuum, that of the vacuum. Zero padding locates the peak to half a Fourier pixel, and a discrete Fourier transform
    around it to 1 / ``subdivisions``.
    """
    from scipy import fft

    size = [2 * s for s in image.shape]
    coarse = np.abs(fft.fft2(image, size))
    peak = np.unravel_index(np.argmax(coarse), coarse.shape)
    steps = np.arange(-subdivisions // 2, subdivisions // 2 + 1)
    frequencies = [np.fft.fftfreq(n)[k] + steps / (subdivisions * s) for n, k, s in zip(size, peak, image.shape)]
    waves = [np.exp(-2j * np.pi * np.outer(f, np.arange(s))) for f, s in zip(frequencies, image.shape)]
    fine = np.abs(waves[0] @ image @ waves[1].T)
    y, x = np.unravel_index(np.argmax(fine), fine.shape)
    flat = image * waves[0][y][:, None] * waves[1][x]
    return flat * np.exp(-1j * np.angle(flat.sum()))


def displayed_object(image: Complex[Array, "H W"], coverage: Float[Array, "H W"]) -> Complex[Array, "h w"]:
    """The illuminated region of an object, without phase ramp and global phase: what every page and figure shows.

    Its corners that no light fell on have the mean value: what a fit left there would decide the contrast.
    """
    region = illuminated_region(coverage)
    illuminated = coverage[region] > LIT * coverage.max()
    shown = ramp_removed(image[region])
    return np.where(illuminated, shown, shown[illuminated].mean()).astype(image.dtype)


def length_unit(metres: float) -> tuple[float, str]:
    """The largest of mm, µm and nm of which a length has one at least, else nm: units in a metre, and its name."""
    for per_metre, name in ((1e3, "mm"), (1e6, "µm")):
        if metres * per_metre >= 1:
            return per_metre, name
    return 1e9, "nm"


def length_text(metres: float, digits: int = 4) -> str:
    """A small length as it is read: in A below half a nm, as microscopists say it, else in nm."""
    per_metre, unit = (1e10, "A") if metres < 0.5e-9 else (1e9, "nm")
    return f"{metres * per_metre:.{digits}g} {unit}"


def contrast_limits(image: Float[Array, "H W"]) -> tuple[float, float]:
    """The values drawn as black and white: the percentiles 0.5 and 99.5."""
    low, high = (float(value) for value in np.percentile(image, (0.5, 99.5)))
    return low, max(high, low + 1e-6)


def colour_map(name: str, low: float, high: float) -> str:
    """The colour map of an amplitude or a phase: gray, but cyclic for a phase that may wrap."""
    wraps = name.startswith("phase") and high - low > np.pi and max(-low, high) <= 1.001 * np.pi
    return "twilight" if wraps else "gray"


def displayed_slices(
    slices: Complex[Array, "S H W"] | None, coverage: Float[Array, "H W"]
) -> Complex[Array, "S h w"] | None:
    """`displayed_object` of each slice of a thick sample; None of a thin one."""
    return None if slices is None else np.stack([displayed_object(layer, coverage) for layer in slices])


def amplitude_and_phase(
    image: Complex[Array, "H W"], slices: Complex[Array, "S H W"] | None = None
) -> dict[str, Float[Array, "H W"]]:
    """The two real images that are drawn of a complex one, by their titles.

    The phase of a thick sample is the sum of those of its ``slices``: that of their product winds at heavy columns.
    """
    phase = np.angle(image) if slices is None else np.angle(slices).sum(axis=0)
    return {"amplitude": np.abs(image), "phase (rad)": phase}


def displayed_images(
    image: Complex[Array, "H W"], coverage: Float[Array, "H W"], slices: Complex[Array, "S H W"] | None = None
) -> dict[str, Float[Array, "h w"]]:
    """`amplitude_and_phase` of a `displayed_object`, and of its slices."""
    return amplitude_and_phase(displayed_object(image, coverage), displayed_slices(slices, coverage))


def binned(image: Num[Array, "H W"], side: int) -> tuple[Num[Array, "h w"], int]:
    """(H, W) averaged over squares of k pixels, so that no side is longer than ``side``; and k."""
    k = -(-max(image.shape) // side)
    height, width = (n - n % k for n in image.shape)
    return image[:height, :width].reshape(height // k, k, width // k, k).mean(axis=(1, 3)), k


def inline_png(png: bytes, alt: str) -> str:
    """A PNG as an HTML element that needs no other file."""
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def captioned_png(png: bytes, alt: str, caption: str) -> str:
    """A PNG as HTML, below a caption."""
    return f"<div><p>{html.escape(caption)}</p>{inline_png(png, f'{alt}: {caption}')}</div>"


def thumbnails(
    images: Mapping[str, tuple[Float[Array, "_ _"], str]], positions: Float[Array, "P 2"] | None = None
) -> bytes:
    """Small images side by side as PNG: (image, colour map) by title, then the positions (y, x) where given."""
    from matplotlib.figure import Figure

    count = len(images) + (positions is not None)
    figure = Figure(figsize=(2.8 * count, 2.6), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for ax, (title, (image, colours)) in zip(axes, images.items()):
        low, high = contrast_limits(image)
        artist = ax.imshow(binned(image, 256)[0], cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        figure.colorbar(artist, ax=ax, shrink=0.8)
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    if positions is not None:
        axes[-1].plot(positions[:, 1], positions[:, 0], ".", markersize=2)
        axes[-1].set_title("positions (px)", fontsize=9)
        axes[-1].set_aspect("equal")
        axes[-1].invert_yaxis()
        axes[-1].tick_params(labelsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


def object_picture(image: Complex[Array, "H W"], caption: str) -> str:
    """A complex image as HTML: amplitude and phase, without phase ramp, below a caption."""
    pair = amplitude_and_phase(ramp_removed(binned(image, 512)[0]))
    images = {name: (values, colour_map(name, *contrast_limits(values))) for name, values in pair.items()}
    return captioned_png(thumbnails(images), "amplitude and phase", caption)


@dataclass(frozen=True, eq=False, repr=False)
class Object:
    """A complex image, ``(H, W)`` transmission, that a notebook shows as a picture: ``Object(scan.object)``."""

    values: np.ndarray
    pixel_size_m: float | None = None

    def __post_init__(self) -> None:
        if np.ndim(self.values) != 2:
            raise ValueError(f"Object.values has shape {np.shape(self.values)}; expected (H, W), one image")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        height, width = self.values.shape
        size = "" if self.pixel_size_m is None else f" of {1e9 * self.pixel_size_m:.4g} nm"
        return f"Object({height} x {width} pixels{size})"

    def _repr_html_(self) -> str:
        return object_picture(self.values, repr(self))
