"""Complex images made fit to be looked at, and pictures inlined in HTML. No display needed."""

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray

LIT = 0.1
"""Part of the largest coverage from which on a pixel is worth showing."""

FINE = 16
"""Parts of a Fourier pixel to which a phase ramp is found."""


def shown_region(coverage: Array) -> tuple[slice, slice]:
    """The box around the well-lit part of an object ``(H, W)``."""
    lit = coverage > LIT * coverage.max()
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def levelled(image: Array) -> Array:
    """A complex image without the linear phase ramp and global phase that ptychography cannot know.

    The ramp is where the spectrum of the image peaks, which for an object on an empty background is the
    background's; it is found to a sixteenth of a Fourier pixel: by padding to half a pixel, then around that peak.
    """
    from scipy import fft

    size = [2 * s for s in image.shape]
    coarse = np.abs(fft.fft2(image, size))
    peak = np.unravel_index(np.argmax(coarse), coarse.shape)
    steps = np.arange(-FINE // 2, FINE // 2 + 1)
    frequencies = [np.fft.fftfreq(n)[k] + steps / (FINE * s) for n, k, s in zip(size, peak, image.shape)]
    waves = [np.exp(-2j * np.pi * np.outer(f, np.arange(s))) for f, s in zip(frequencies, image.shape)]
    fine = np.abs(waves[0] @ image @ waves[1].T)
    y, x = np.unravel_index(np.argmax(fine), fine.shape)
    flat = image * waves[0][y][:, None] * waves[1][x]
    return flat * np.exp(-1j * np.angle(flat.sum()))


def contrast(image: Array) -> tuple[float, float]:
    """The values that are drawn as black and white: all but the outermost half per cent lies between them."""
    low, high = (float(value) for value in np.percentile(image, (0.5, 99.5)))
    return low, max(high, low + 1e-6)


def colours_of(name: str, low: float, high: float) -> str:
    """The colour map of one of the `parts` of an image: gray, but cyclic for a phase that may wrap."""
    return "twilight" if name.startswith("phase") and high - low > np.pi else "gray"


def parts(image: Array) -> dict[str, Array]:
    """What is drawn of a complex image: its amplitude, and its phase in radians."""
    return {"amplitude": np.abs(image), "phase (rad)": np.angle(image)}


def inlined(png: bytes, alt: str) -> str:
    """A PNG as an element of a page that needs no other file."""
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def described(png: bytes, alt: str, text: str) -> str:
    """A PNG in a page, with a line of text above it."""
    return f"<div><p>{html.escape(text)}</p>{inlined(png, f'{alt}: {text}')}</div>"


def panels(images: Mapping[str, tuple[Array, str]], points: Array | None = None) -> bytes:
    """Small pictures side by side as PNG: (image, colour map) by title, and positions (P, 2) of (y, x), if any."""
    from matplotlib.figure import Figure

    count = len(images) + (points is not None)
    figure = Figure(figsize=(2.8 * count, 2.6), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for ax, (title, (image, colours)) in zip(axes, images.items()):
        low, high = contrast(image)
        shown = ax.imshow(binned(image, 256)[0], cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        figure.colorbar(shown, ax=ax, shrink=0.8)
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    if points is not None:
        axes[-1].plot(points[:, 1], points[:, 0], ".", markersize=2)
        axes[-1].set_title("positions (px)", fontsize=9)
        axes[-1].set_aspect("equal")
        axes[-1].invert_yaxis()
        axes[-1].tick_params(labelsize=7)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=80)
    return out.getvalue()


def binned(image: Array, side: int) -> tuple[Array, int]:
    """(H, W) averaged over squares of k pixels, so that no side is longer than ``side``; and k."""
    k = -(-max(image.shape) // side)
    height, width = (n - n % k for n in image.shape)
    return image[:height, :width].reshape(height // k, k, width // k, k).mean(axis=(1, 3)), k


def object_picture(image: Array, text: str) -> str:
    """A complex image (H, W) as HTML: amplitude and phase without what ptychography cannot know, and a line of text."""
    view = levelled(binned(image, 512)[0])
    pictures = {name: (part, colours_of(name, *contrast(part))) for name, part in parts(view).items()}
    return described(panels(pictures), "amplitude and phase", text)


@dataclass(frozen=True, eq=False, repr=False)
class Object:
    """A complex image, ``(H, W)`` transmission, that a notebook shows as a picture: ``Object(scan.object)``."""

    values: Array
    pixel_size_m: float | None = None

    def __post_init__(self) -> None:
        if np.ndim(self.values) != 2:
            raise ValueError(f"Object.values has shape {np.shape(self.values)}; expected (H, W), one image")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        height, width = self.values.shape
        size = "" if self.pixel_size_m is None else f" of {1e9 * self.pixel_size_m:.4g} nm"
        return f"Object({height} x {width} pixels{size})"

    def _repr_html_(self) -> str:
        return object_picture(self.values, repr(self))
