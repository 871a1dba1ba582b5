"""Frames, probe and object on a cropped or a binned detector.

An object pixel is ``wavelength distance / detector side``, and the window of the probe ``wavelength distance / detector
pixel``: a cropped detector has larger object pixels in the same window, a binned one a smaller window of the same
object pixels.
"""

import numpy as np

from ptycho.arrays import Array, Bool, Complex, Real, Shaped
from ptycho.data.frames import Counts, StoredFrames, chunks


def window(array: Shaped[Array, "*batch N N"], side: int) -> Shaped[Array, "*batch {side} {side}"]:
    """The middle ``side x side`` pixels, a view: pixel ``N // 2`` becomes ``side // 2``."""
    first = array.shape[-1] // 2 - side // 2
    return array[..., first : first + side, first : first + side]


def bin_offset_px(N: int, k: int) -> float:
    """Fine pixels from ``N // 2`` to the centre of bin ``N // k // 2``, half-integers for even k; N a multiple of k."""
    return N // k // 2 * k + (k - 1) / 2 - N // 2


def bin_contrast(N: int, k: int, distance_px: float) -> float:
    """Contrast left by sums over k of N pixels of the fringes of two waves that start ``distance_px`` apart.

    The mean of ``exp(2 pi i d n / N)`` over k pixels n: ``sin(k a) / (k sin a)`` with ``a = pi d / N``.
    """
    # Waves further apart than N / k are not in the new window.
    angle = np.pi * min(distance_px, N / k) / N
    return float(np.sin(k * angle) / (k * np.sin(angle)))


def binned_counts(counts: Counts, k: int) -> StoredFrames:
    """Sums of k x k pixels, in the dtype of the counts if it holds ``k^2`` times the largest count, or a wider one."""
    frames = StoredFrames.of(counts)
    dtype = frames.dtype
    if dtype.kind in "ui":
        # The largest sum that there can be decides the dtype: no sum overflows.
        bound = k**2 * int(frames.cached("largest", _largest).max())
        dtype = dtype if bound <= np.iinfo(dtype).max else np.promote_types(dtype, np.min_scalar_type(bound))
    return frames.mapped(binned, k, dtype)


def _largest(counts: StoredFrames) -> Real[Array, " P"]:
    return np.concatenate([chunk.max(axis=(1, 2)) for chunk in chunks(counts)])


def binned(frames: Shaped[Array, "B N N"], k: int, dtype: np.dtype) -> Real[Array, "B N//{k} N//{k}"]:
    """Sums over k x k pixels."""
    # k^2 strided sums: no copy of the frames in a wider dtype
    sums = np.zeros((len(frames), frames.shape[1] // k, frames.shape[2] // k), dtype)
    for y in range(k):
        for x in range(k):
            sums += frames[:, y::k, x::k]
    return sums


def binned_mask(mask: Bool[Array, "N N"], k: int) -> Bool[Array, "N//{k} N//{k}"]:
    """True where all of the k x k pixels are."""
    return binned(mask[None], k, np.dtype(int))[0] == k**2


def cropped_probe(probe: Complex[Array, "M N N"], side: int) -> Complex[Array, "M {side} {side}"]:
    """The probe whose far field is the middle of this one's: its band limit falls with the detector. complex64."""
    # Fourier transform, cut to the middle, and back: unitary both ways, so that what is left keeps its photons
    far_field = np.fft.fftshift(np.fft.fft2(_uncentred(probe), norm="ortho"), axes=(-2, -1))
    limited = np.fft.ifft2(_uncentred(window(far_field, side)), norm="ortho")
    return np.fft.fftshift(limited, axes=(-2, -1)).astype(np.complex64)


def binned_probe(probe: Complex[Array, "M N N"], k: int) -> Complex[Array, "M N//{k} N//{k}"]:
    """The middle of a probe, with a phase ramp that moves its far field to the centres of the bins; complex64.

    For even k the zero frequency is half a fine pixel off the centre of its bin.
    """
    N = probe.shape[-1]
    side = N // k
    # F[exp(-2 pi i c x / N) P](q) = F[P](q + c): the far field at the centres of the bins, c fine pixels off
    ramp = np.exp(-2j * np.pi * bin_offset_px(N, k) / N * (np.arange(side) - side // 2))
    return (window(probe, side) * ramp[:, None] * ramp).astype(np.complex64)


def coarser(image: Complex[Array, "H W"], N: int, side: int) -> Complex[Array, "h w"]:
    """A transmission in pixels ``N / side`` times as large, pixel 0 staying; mirrored beyond its edges. complex64."""
    from scipy.signal import resample

    shape = image.shape
    # First to a multiple of N, so that the new length is an integer, then mirrored: periodic, as `resample` needs it.
    for padding in (-np.array(shape) % N, np.array(shape) + -np.array(shape) % N):
        image = np.pad(image, [(0, width) for width in padding], mode="symmetric")
    for axis in (0, 1):
        image = resample(image, image.shape[axis] * side // N, axis=axis)
    height, width = (-(-length * side // N) for length in shape)
    return image[:height, :width].astype(np.complex64)


def _uncentred(waves: Complex[Array, "M N N"]) -> Complex[Array, "M N N"]:
    """The centre moved to pixel 0, in double precision."""
    return np.fft.ifftshift(waves.astype(np.complex128), axes=(-2, -1))
