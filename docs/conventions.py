"""The figure of docs/conventions.md, from the package's own physics: ``python docs/conventions.py``."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ptycho.physics.forward import Diffraction, frame_probes
from ptycho.physics.patches import split_positions
from ptycho.physics.propagation import near_field, transfer_function

N, H, W = 32, 64, 96
KY, KX = 3, 6  # cycles over a window
positions = np.array([[20.0, 24.0], [20.0, 60.0], [40.0, 24.0], [40.0, 60.0]])
frame = 1
y, x = np.mgrid[:H, :W]
prism = np.exp(2j * np.pi * (KY * y + KX * x) / N)  # phase grows with y and twice as fast with x
yy, xx = np.mgrid[:N, :N] - N // 2
probe = 100 * np.exp(-(xx**2 + yy**2) / 40)[None].astype("complex64")
corner = split_positions(positions)[0][frame] - N // 2
patch = prism[corner[0] : corner[0] + N, corner[1] : corner[1] + N].astype("complex64")
pattern = np.asarray(Diffraction((patch,), *frame_probes(probe)).expected)
shifted = np.asarray(frame_probes(probe, np.array([3.0, 5.5]))[0])[0]


def side_view(wave: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Brightness of a wave (N, N), summed over y: (distances along the beam, x)."""
    waves = [near_field(wave, transfer_function(wave.shape, distance, WAVELENGTH)) for distance in distances]
    return (np.abs(np.array(waves)) ** 2).sum(axis=1)


M, WAVELENGTH = 96, 0.5
v, u = np.mgrid[:M, :M] - M // 2
beam = np.exp(-(u**2 + v**2) / 60)
along = np.arange(-160.0, 161.0, 4.0)
tilted = (beam * np.exp(2j * np.pi * u * 0.25)).astype("complex64")
lens = (beam * np.exp(1j * np.pi * (u**2 + v**2) / 60)).astype("complex64")

figure = Figure(figsize=(12, 8), layout="constrained")
axes = figure.subplots(2, 3)
shown = axes[0, 0].imshow(np.angle(prism), cmap="twilight", interpolation="nearest", vmin=-np.pi, vmax=np.pi)
figure.colorbar(shown, ax=axes[0, 0], shrink=0.6, label="phase (rad)")
axes[0, 0].plot(positions[:, 1], positions[:, 0], "o-", color="white", mec="black")
for number, (top, left) in enumerate(positions):
    axes[0, 0].text(left + 2, top + 7, str(number), color="white", weight="bold")
axes[0, 0].plot(*positions[frame][::-1], "X", color="red", mec="white", ms=12)
axes[0, 0].add_patch(Rectangle(corner[::-1] - 0.5, N, N, fill=False, ec="red", lw=2))
axes[0, 0].set_title("1. object: frame 1 at (y, x) = (20, 60)")
axes[0, 1].imshow(np.abs(probe[0]), cmap="viridis")
axes[0, 1].plot(N // 2, N // 2, "X", color="red", mec="white", ms=12)
axes[0, 1].set_title("2. probe: the position is pixel (16, 16)")
axes[0, 2].imshow(np.log1p(pattern), cmap="viridis")
axes[0, 2].axvline(N // 2, color="white", lw=0.8)
axes[0, 2].axhline(N // 2, color="white", lw=0.8)
axes[0, 2].annotate(
    "", (N // 2 + KX, N // 2 + KY), (N // 2, N // 2), arrowprops=dict(arrowstyle="->", color="red", lw=2)
)
axes[0, 2].set_title(f"3. counts behind the prism: (+{KY}, +{KX})")
axes[1, 0].imshow(np.abs(shifted), cmap="viridis")
axes[1, 0].annotate(
    "", (N // 2 + 5.5, N // 2 + 3), (N // 2, N // 2), arrowprops=dict(arrowstyle="->", color="red", lw=2)
)
axes[1, 0].set_title("4. probe shifted by (+3, +5.5)")
for axis, wave, title in (
    (axes[1, 1], tilted, "5. phase grows with x: walks to +x"),
    (axes[1, 2], lens, "6. phase grows outwards: diverges"),
):
    axis.imshow(side_view(wave, along).T, cmap="viridis", extent=(along[0], along[-1], M // 2, -M // 2), aspect="auto")
    axis.axvline(0, color="white", lw=0.8, ls="--")
    axis.set_title(title)
    axis.set_xlabel("z behind the sample (px)")
    axis.set_ylabel("x (px)")
for axis in axes.ravel()[:4]:
    axis.set_xlabel("x (px)")
    axis.set_ylabel("y (px)")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=80)
