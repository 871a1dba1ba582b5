"""What becomes of frames, probe and object when less of the detector is used: its middle alone, or coarser pixels.

Side of an object pixel and side of the field of view are ``wavelength distance`` over the side of the detector and over
that of its pixels: a smaller detector has larger object pixels in the same field, coarser pixels a smaller field of the
same object pixels.
"""

import numpy as np

from ptycho.data.frames import Counts, StoredFrames, chunks

Array = np.ndarray


def window(array: Array, side: int) -> Array:
    """The middle ``side x side`` pixels of (..., N, N), a view: pixel ``N // 2`` becomes ``side // 2``."""
    first = array.shape[-1] // 2 - side // 2
    return array[..., first : first + side, first : first + side]


def bin_offset_px(N: int, k: int) -> float:
    """Fine pixels from ``N // 2`` to the middle of bin ``N // k // 2``, halves where k is even; N a multiple of k."""
    return N // k // 2 * k + (k - 1) / 2 - N // 2


def bin_contrast(N: int, k: int, distance_px: float) -> float:
    """What sums over k of N pixels leave of the fringes of two waves that start so far apart along an axis."""
    angle = np.pi * min(distance_px, N / k) / N
    return float(np.sin(k * angle) / (k * np.sin(angle)))


def binned_counts(counts: Counts, k: int) -> StoredFrames:
    """Sums of k x k pixels, in the dtype of the counts if it holds ``k^2`` times the largest, else in a wider one."""
    frames = StoredFrames.of(counts)
    dtype = frames.dtype
    if dtype.kind in "ui":
        most = k**2 * int(frames.once("largest", _largest).max())
        dtype = dtype if most <= np.iinfo(dtype).max else np.promote_types(dtype, np.min_scalar_type(most))
    return frames.through(binned, k, dtype)


def _largest(counts: StoredFrames) -> Array:
    return np.concatenate([chunk.max(axis=(1, 2)) for chunk in chunks(counts)])


def binned(frames: Array, k: int, dtype: np.dtype) -> Array:
    """(B, N / k, N / k) sums of frames (B, N, N) over k x k pixels."""
    found = np.zeros((len(frames), frames.shape[1] // k, frames.shape[2] // k), dtype)
    for y in range(k):
        for x in range(k):
            found += frames[:, y::k, x::k]
    return found


def binned_mask(mask: Array, k: int) -> Array:
    """(N / k, N / k) bool of a mask (N, N): True where all of the k x k pixels are."""
    return binned(mask[None], k, np.dtype(int))[0] == k**2


def cropped_probe(probe: Array, side: int) -> Array:
    """(M, side, side) complex64: what of a probe (M, N, N) reaches the middle of the detector unscattered."""
    waves = np.fft.fftshift(np.fft.fft2(_corner(probe), norm="ortho"), axes=(-2, -1))
    inner = np.fft.ifft2(_corner(window(waves, side)), norm="ortho")
    return np.fft.fftshift(inner, axes=(-2, -1)).astype(np.complex64)


def binned_probe(probe: Array, k: int) -> Array:
    """(M, N / k, N / k) complex64: the middle of a probe (M, N, N), turned towards the middles of the bins.

    Half a fine pixel, by which even bins are off the zero frequency, is a ramp of phase over the probe.
    """
    N = probe.shape[-1]
    side = N // k
    ramp = np.exp(-2j * np.pi * bin_offset_px(N, k) / N * (np.arange(side) - side // 2))
    return (window(probe, side) * ramp[:, None] * ramp).astype(np.complex64)


def coarser(image: Array, N: int, side: int) -> Array:
    """A transmission (H, W) in pixels ``N / side`` times as large, pixel 0 where it was; mirrored beyond its edges."""
    from scipy.signal import resample

    shape = image.shape
    for behind in (-np.array(shape) % N, np.array(shape) + -np.array(shape) % N):
        image = np.pad(image, [(0, more) for more in behind], mode="symmetric")  # periodic in the end
    for axis in (0, 1):
        image = resample(image, image.shape[axis] * side // N, axis=axis)
    height, width = (-(-length * side // N) for length in shape)
    return image[:height, :width].astype(np.complex64)


def _corner(waves: Array) -> Array:
    return np.fft.ifftshift(waves.astype(np.complex128), axes=(-2, -1))
