"""Ten objects that made neither the network nor its weights: photographs, textures, a lattice, circuits, a cell, balls.

`ptycho.training.pretrain` draws none of these kinds. Photographs are those that come with scikit-image.
"""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from ptycho.simulation.objects import make_object
from ptycho.simulation.shapes import transmission

SIDE = 224
"""Pixels: what frames of 64 at steps of 8 reach over, 14 of them on a side, and a margin."""


def photograph(name: str, top: int = 0, left: int = 0, shrink: int = 2) -> np.ndarray:
    """Phase up to 1.2 rad and absorption up to 0.5 from a gray picture, binned."""
    from skimage import color, data

    image = np.asarray(getattr(data, name)())
    gray = color.rgb2gray(image) if image.ndim == 3 else image / 255.0
    side = SIDE * shrink
    gray = gray[top : top + side, left : left + side].reshape(SIDE, shrink, SIDE, shrink).mean(axis=(1, 3))
    gray = (gray - gray.min()) / np.ptp(gray)
    return transmission(0.5 * (1 - gray), 1.2 * gray)


def atoms(seed: int, spacing_px: float = 9.0, vacancies: float = 0.04) -> np.ndarray:
    """A hexagonal lattice of two kinds of atoms, turned, with vacancies: phase alone, nearly."""
    rng = np.random.default_rng(seed)
    turn = rng.uniform(0, np.pi / 3)
    basis = spacing_px * np.array([[0, 1], [np.sqrt(3) / 2, 0.5]])
    numbers = np.stack(np.meshgrid(*[np.arange(-60, 60)] * 2, indexing="ij"), -1).reshape(-1, 2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    phase = np.zeros((SIDE, SIDE))
    y, x = np.mgrid[:SIDE, :SIDE]
    for shift, height in (((0, 0), 1.0), ((1 / 3, 1 / 3), 0.5)):
        places = (numbers + shift) @ basis @ rotation.T + SIDE / 2
        inside = ((places > -4) & (places < SIDE + 4)).all(axis=1) & (rng.random(len(places)) > vacancies)
        for cy, cx in places[inside]:
            window = np.s_[max(0, int(cy) - 6) : int(cy) + 7, max(0, int(cx) - 6) : int(cx) + 7]
            phase[window] += height * np.exp(-((y[window] - cy) ** 2 + (x[window] - cx) ** 2) / (2 * 1.6**2))
    return transmission(0.02 * phase, 0.6 * phase)


def circuit(seed: int) -> np.ndarray:
    """Two layers of wires along y and x, of widths of 3 to 9 px, with contacts between them."""
    rng = np.random.default_rng(seed)
    layers = np.zeros((2, SIDE, SIDE))
    for axis, layer in enumerate(layers):
        lines = layer if axis == 0 else layer.T
        at = 2
        while at < SIDE:
            width, gap = rng.integers(3, 10, 2)
            start = 0
            while start < SIDE:
                end = start + rng.integers(20, 150)
                lines[at : at + width, start:end] = 1
                start = end + rng.integers(3, 25)
            at += width + gap
    contacts = (layers.min(axis=0) > 0) & np.kron(rng.random((SIDE // 8, SIDE // 8)) < 0.15, np.ones((8, 8))).astype(
        bool
    )
    thickness = gaussian_filter(0.5 * layers[0] + 0.35 * layers[1] + 0.4 * contacts, 0.5)
    return transmission(0.15 * thickness, 0.9 * thickness)


UNSEEN: dict[str, Callable[[], np.ndarray]] = {
    "camera": lambda: photograph("camera", 20, 60),
    "astronaut": lambda: photograph("astronaut", 0, 30),
    "brick": lambda: photograph("brick"),
    "gravel": lambda: photograph("gravel"),
    "atoms": lambda: atoms(1),
    "atoms, wide": lambda: atoms(2, spacing_px=14.0),
    "circuit": lambda: circuit(1),
    "circuit, another": lambda: circuit(2),
    "a cell": lambda: photograph("cell", 280, 280, shrink=1),
    "gold balls": lambda: make_object("gold_balls", (SIDE, SIDE), np.random.default_rng(11)),
}
"""Each makes ``(SIDE, SIDE)`` complex64."""
