"""The batches of a training: groups of neighbouring frames, their photons thinned, each on a canvas."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from ptycho.arrays import Array, Complex, Float, Shaped
from ptycho.config import ModelConfig, TrainingConfig
from ptycho.data.grouping import blocks, group_extents, held_out_groups
from ptycho.data.scan import Scan
from ptycho.network.architectures import architecture_of
from ptycho.network.symmetries import Symmetry
from ptycho.physics.patches import placed, split_positions
from ptycho.training.schedule import planned

Group = tuple[int, np.ndarray]
"""The number of a scan, and which of its frames."""


class Batches:
    """The batches of scans: groups of neighbours, drawn anew for each epoch from (seed, epoch) alone.

    Args:
        scans: what to train on.
        settings: of the network.
        config: of the training.
        has_probe: whether the network uses a probe of its own; else the batches bring that of each scan.
        frames_per_step: in a batch, about, where ``config`` sets no ``batch_groups``.
        offsets: groups start at a random pixel out of so many along each axis of their canvas: pooling must not learn
            where.
        most_held_out: frames in the held-out groups at most: those of a large scan would take longer than the epoch.
        widest: quantile of the extents of groups up to which they are used: those that reach over a hole of the scan
            would make all canvases larger.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        settings: ModelConfig,
        config: TrainingConfig,
        *,
        has_probe: bool = True,
        frames_per_step: int = 36,
        offsets: int = 8,
        most_held_out: int = 2000,
        widest: float = 0.8,
    ):
        check_scans(scans, settings, config, has_probe)
        self.scans, self.settings, self.config, self.offsets = list(scans), settings, config, offsets
        self.brings_probe = not has_probe or len(scans) > 1
        self.architecture = architecture_of(settings)
        self.N = scans[0].N
        self.group = min(settings.channels, *(len(scan) for scan in scans))
        usual = max(1, frames_per_step // self.group)
        # As many groups on each device
        self.batch = config.batch_groups or config.devices * math.ceil(usual / config.devices)
        rng = np.random.default_rng([config.seed, 0])
        self.training_index: list[np.ndarray] = []
        self.blocks: list[np.ndarray] = []
        self.validation_groups: list[Group] = []
        extents = [0.0]
        fraction = min(config.validation_fraction, most_held_out / sum(len(scan) for scan in scans))
        for number, scan in enumerate(scans):
            held_out, index = held_out_groups(scan.positions, self.group, fraction, rng)
            self.training_index.append(index)
            self.blocks.append(index[blocks(scan.positions[index], self.group)])
            self.validation_groups += [(number, group) for group in held_out]
            extents += list(group_extents(scan.positions, held_out))
        self.validation_side = self._canvas_side(max(extents))
        of_blocks = [group_extents(scan.positions, groups) for scan, groups in zip(scans, self.blocks, strict=True)]
        limit = max(np.quantile(extent, widest) for extent in of_blocks)
        self.blocks = [groups[extent <= limit] for groups, extent in zip(self.blocks, of_blocks, strict=True)]
        self.canvas_side = self._canvas_side(limit + offsets)
        self.subpixel = any(split_positions(scan.positions)[1].any() for scan in scans)
        self.training_frames = sum(len(index) for index in self.training_index)
        self.plan = planned(config, self.training_frames, self.N)

    def _canvas_side(self, extent: float) -> int:
        """Of a group of this extent, for whole tiles of the U-Nets; a pixel to spare for the rounding of positions."""
        multiple = self.architecture.multiple
        return multiple * math.ceil((self.N + extent + 2) / multiple)

    def epoch(self, epoch: int) -> "BatchSequence":
        """As many frames as planned, mostly one pass over them, in complete batches."""
        rng = np.random.default_rng([self.config.seed, 1, epoch])
        steps = math.ceil(self.plan.frames / (self.group * self.batch))
        frames = np.array([len(index) for index in self.training_index])
        # Each scan is drawn as often as it has frames.
        drawn = (
            rng.multinomial(steps * self.batch, frames / self.training_frames)
            if len(frames) > 1
            else [steps * self.batch]
        )
        groups: list[Group] = []
        for number, count in enumerate(drawn):
            # All blocks in random order, from the start again where more are drawn than there are
            rows = np.resize(rng.permutation(len(self.blocks[number])), count)
            groups += [(number, self.blocks[number][row]) for row in rows]
        rng.shuffle(groups)
        return BatchSequence(self, groups, [self.config.seed, 2, epoch], training=True)

    def validation(self) -> "BatchSequence":
        """The held-out groups, the last batch filled up with the first group; always the same photons thinned out."""
        # -n % b: what n lacks to a multiple of b
        padding = -len(self.validation_groups) % self.batch
        groups = self.validation_groups + self.validation_groups[:1] * padding
        return BatchSequence(self, groups, [self.config.seed, 3], training=False)

    def arrays(self, groups: list[Group], rng: np.random.Generator, training: bool) -> dict[str, np.ndarray]:
        """One batch of groups as the network takes it, with what its object is compared with."""
        of_groups = [self.group_arrays(self.scans[number], members, rng, training) for number, members in groups]
        arrays: dict[str, np.ndarray] = {name: np.stack([group[name] for group in of_groups]) for name in of_groups[0]}
        if training and self.config.augment and self.architecture.symmetric:
            side = self.canvas_side if self.architecture.needs_neighbours else self.N
            rows = len(groups) if self.config.devices > 1 else 1  # what is split over devices has a row for each group
            symmetry = Symmetry.arrays(int(rng.integers(Symmetry.COUNT)), side)
            arrays |= {name: np.repeat(values, rows, axis=0) for name, values in symmetry.items()}
        return arrays

    def group_arrays(
        self, scan: Scan, members: np.ndarray, rng: np.random.Generator, training: bool
    ) -> dict[str, np.ndarray]:
        """The arrays of one group, without the batch axis."""
        positions, subpixel = split_positions(scan.positions[members])
        offset = rng.integers(self.offsets, size=2) if training else 0
        side = self.canvas_side if training else self.validation_side
        # Scan pixel at the first pixel of the canvas: the first frames begin at the offset.
        origin = positions.min(axis=0) - scan.N // 2 - offset
        counts, target = thin_counts(scan.counts[members], self.config.thinning, rng)
        arrays = dict(
            counts=counts,
            target=target,
            mask=scan.mask.astype("float32"),
            positions=(positions - origin).astype("int32"),
            canvas=np.zeros((side, side), "float32"),
            exposure=np.float32(self.config.thinning),
        )
        if self.subpixel:
            arrays["subpixel"] = subpixel
        if self.brings_probe:
            arrays["probe"] = scan.probe
        if scan.transfer is not None:
            arrays["transfer"] = scan.transfer
        if self.config.realspace_weight:
            arrays["truth"], arrays["truth_mask"] = true_object(scan, origin, (side, side))
        return arrays


class BatchSequence(keras.utils.PyDataset):
    """Batches one by one, each thinned anew from (seed, number)."""

    def __init__(self, batches: Batches, groups: list[Group], seed: list[int], training: bool):
        super().__init__()
        self.batches, self.groups, self.seed, self.training = batches, groups, seed, training

    def __len__(self) -> int:
        return len(self.groups) // self.batches.batch

    def __getitem__(self, k: int) -> tuple[dict[str, np.ndarray]]:
        size = self.batches.batch
        rng = np.random.default_rng([*self.seed, k])
        return (self.batches.arrays(self.groups[k * size : (k + 1) * size], rng, self.training),)


def thin_counts(
    counts: Shaped[Array, "*frames"], fraction: float, rng: np.random.Generator
) -> tuple[Float[Array, "*frames"], Float[Array, "*frames"]]:
    """Counts split binomially into those that the network sees and those to compare with; float32.

    Each photon is kept with probability ``fraction``: the two parts of a Poisson count are independent Poisson counts.
    Counts that are not integers are rounded up or down at random, without bias. With a fraction of 1 both are the
    counts.
    """
    if fraction == 1:
        counts = counts.astype("float32")
        return counts, counts
    photons = counts
    if counts.dtype.kind == "f":
        floor = np.floor(counts)
        # Up with the probability of the fraction: right on average
        photons = floor + (rng.random(counts.shape, "float32") < counts - floor)
    photons = np.maximum(photons, 0).astype("int64")
    kept = np.asarray(rng.binomial(photons, fraction))
    return kept.astype("float32"), (photons - kept).astype("float32")


def true_object(
    scan: Scan, origin: np.ndarray, shape: tuple[int, int]
) -> tuple[Complex[Array, "H W"], Float[Array, "H W"]]:
    """The true object on a canvas whose first pixel is at ``origin``, and where it is known."""
    assert scan.object is not None
    # Object pixel ``origin`` goes to the first pixel of the canvas.
    truth = placed(scan.object, -origin, np.zeros(shape, "complex64"))
    return truth, placed(np.ones(scan.object.shape), -origin, np.zeros(shape, "float32"))


def check_scans(scans: Sequence[Scan], settings: ModelConfig, config: TrainingConfig, has_probe: bool) -> None:
    """Raise ValueError where scans do not fit the network or each other."""
    if not scans:
        raise ValueError("there is no scan to train on; give one at least")
    if len(scans) > 1 and (settings.probe_trainable or settings.scale_trainable):
        raise ValueError("several scans come with their own probes: set probe_trainable and scale_trainable to False")
    for scan in scans:
        if has_probe and scan.N != settings.N:
            raise ValueError(f"the scan's frames have N {scan.N}, the model N {settings.N}; build a model for the scan")
        if scan.N != scans[0].N or scan.modes != scans[0].modes:
            raise ValueError(
                f"a scan has N {scan.N} and {scan.modes} probe modes, the first N {scans[0].N} and {scans[0].modes}: "
                "give them all the same"
            )
        if (scan.near_field is None) != (scans[0].near_field is None):
            raise ValueError("some scans are in the near field, others in the far field: train on one kind")
        if config.realspace_weight and scan.object is None:
            raise ValueError("realspace_weight needs a scan with its true object; this scan has none")
