"""The figure of docs/conventions.md, from the package's own physics: ``python docs/conventions.py``."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ptycho.physics.diffraction import expected_counts
from ptycho.physics.patches import split_positions

N, H, W = 32, 64, 96
positions = np.array([[20.0, 24.0], [20.0, 60.0], [40.0, 24.0], [40.0, 60.0]])
frame = 1
y, x = np.mgrid[:H, :W]
sample = np.exp(2j * np.pi * x * 6 / N) * (0.6 + 0.4 * (y < 30))  # a prism: phase grows with x, 6 cycles over a window
yy, xx = np.mgrid[:N, :N] - N // 2
probe = 100 * np.exp(-(xx**2 + yy**2) / 40)[None].astype("complex64")
corner = split_positions(positions)[0][frame] - N // 2
patch = sample[corner[0] : corner[0] + N, corner[1] : corner[1] + N].astype("complex64")
pattern = np.asarray(expected_counts(patch[None, None], probe))[0, 0]

figure = Figure(figsize=(12, 4), layout="constrained")
axes = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
axes[0].imshow(np.angle(sample), cmap="twilight", interpolation="nearest")
axes[0].plot(positions[:, 1], positions[:, 0], "o-", color="white", mec="black")
axes[0].plot(*positions[frame][::-1], "X", color="red", ms=12)
axes[0].add_patch(Rectangle(corner[::-1] - 0.5, N, N, fill=False, ec="red", lw=2))
axes[0].set_title(f"object phase, a frame at (y, x) = ({positions[frame][0]:.0f}, {positions[frame][1]:.0f})")
axes[1].imshow(np.abs(probe[0]), cmap="viridis")
axes[1].plot(N // 2, N // 2, "X", color="red", ms=12)
axes[1].set_title("probe; the position: pixel (16, 16)")
axes[2].imshow(np.log1p(pattern), cmap="viridis")
axes[2].axvline(N // 2, color="white", lw=0.8)
axes[2].axhline(N // 2, color="white", lw=0.8)
axes[2].set_title("log counts; zero frequency: (16, 16)")
for ax in axes:
    ax.set_xlabel("x (px)")
    ax.set_ylabel("y (px)")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=80)
