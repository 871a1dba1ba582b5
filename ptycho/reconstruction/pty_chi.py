"""The iterative engines of pty-chi on a scan: an independent reference for what this package makes of it.

pty-chi (https://github.com/AdvancedPhotonSource/pty-chi, Apache-2.0) is the optional package ``ptychi``. Where its
version 2.2 differs from the conventions of `ptycho.physics`:

- its far field is the plain DFT, with zero frequency at the corner: its probe is ours over N;
- a patch begins ``(N - 1) / 2`` pixels before ``position + origin``, ours ``N // 2`` before the position: the origin
  of its positions is set so that both are the same pixel, for even and odd N;
- like us it moves the probe by the part of a position that is no whole pixel, but only its first mode: with several
  modes it fits sub-pixel positions inexactly.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np

from ptycho.data.scan import Scan
from ptycho.deprecation import renamed_keywords
from ptycho.physics.grid import ObjectGrid
from ptycho.progress import Progress
from ptycho.reconstruction.other_programs import MARGIN_PX, EngineRun, canvas_result
from ptycho.simulation.probes import with_modes

Engine = Literal["lsqml", "rpie", "epie"]

INSTALL = "pip install 'ptycho[ptychi]'"


@renamed_keywords
def run_ptychi(
    scan: Scan,
    *,
    engine: Engine = "lsqml",
    modes: int | None = None,
    epochs: int = 30,
    batch_size: int | None = None,
    probe_fixed: bool | None = None,
    held_out: np.ndarray | None = None,
    positions: bool = False,
    seed: int = 0,
    threads: int = 2,
    progress: Progress | None = None,
) -> EngineRun:
    """Reconstruct a scan by an engine of pty-chi, from empty space, on the CPU in single precision.

    What is not named here is pty-chi's own default.

    Args:
        scan: P frames; its probe is the first guess.
        engine: ``lsqml`` (Odstrcil et al. 2018), ``rpie`` or ``epie`` (Maiden et al. 2017).
        modes: incoherent probe modes, those added as by `with_modes`; None: the scan's.
        epochs: passes over the frames.
        batch_size: frames in a batch, drawn at random; None: a sixteenth of those used, 32 at most. The PIE engines add
            up the steps of a batch, and diverge where many of its frames overlap.
        probe_fixed: keep the probe as it is; None: where the scan knows it.
        held_out: ``(P,)`` bool: frames that pty-chi is not given.
        positions: correct the positions too, from the first epoch on; held-out frames follow the mean correction.
        seed: of the order of the frames.
        threads: of PyTorch.
        progress: told of the progress.

    Raises:
        ValueError: the package is not installed, there is no such engine, or no frame is left to fit to.
        FloatingPointError: the engine diverged.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"engine is {engine!r}; expected one of {', '.join(get_args(Engine))}")
    used = np.arange(len(scan)) if held_out is None else np.flatnonzero(~np.asarray(held_out, bool))
    if not len(used):
        raise ValueError("all frames are held out: none is left to fit to")
    probe = scan.probe if modes is None else with_modes(scan.probe, modes)
    fixed = scan.probe_known if probe_fixed is None else probe_fixed
    batch_size = batch_size or min(32, -(-len(used) // 16))
    task_type, api = _imported()
    with _torch_as_before(threads):
        begin = time.perf_counter()
        grid = ObjectGrid.around(scan.positions, scan.N, MARGIN_PX)
        shape = grid.shape
        middle = np.array(shape) // 2  # positions small in number lose least in single precision
        placed = grid.on_grid(scan.positions) - middle
        task = task_type(
            # Its patch begins (N - 1) / 2 before position + origin, ours N // 2 before the position (see above).
            _options(api, engine, epochs, batch_size, fixed, positions, middle - scan.N // 2 + (scan.N - 1) / 2),
            diffraction_data=np.fft.ifftshift(scan.counts[used] * scan.mask, axes=(-2, -1)).astype("float32"),
            valid_pixel_mask=np.fft.ifftshift(scan.mask),
            object_data=np.ones((1, *shape), "complex64"),
            # The plain DFT is N times the unitary one.
            probe_data=(probe / scan.N)[None],
            probe_position_y_px=placed[used, 0].astype("float32"),
            probe_position_x_px=placed[used, 1].astype("float32"),
            opr_mode_weights_data=np.ones((len(used), 1), "float32"),
        )
        task.reconstructor.dataloader.generator.manual_seed(seed)
        setup_seconds = time.perf_counter() - begin
        history = _iterate(task, epochs, f"pty-chi {engine}", progress)
        if not np.isfinite(history[-1]["loss"]):
            raise FloatingPointError(
                f"{engine} of pty-chi diverged in epoch {len(history)}: {batch_size} frames in a batch are too many"
            )
        image = task.get_data_to_cpu("object", as_numpy=True)[0]
        if not fixed:
            probe = scan.N * task.get_data_to_cpu("probe", as_numpy=True)[0]
        if positions:
            # Held-out frames, which it does not see, follow the mean of the others.
            moved = task.get_data_to_cpu("probe_positions", as_numpy=True) - placed[used]
            placed += moved.mean(axis=0)
            placed[used] += moved - moved.mean(axis=0)
    result = canvas_result(scan, grid, image, probe, used, placed + middle)
    return EngineRun(result, history, setup_seconds)


def why_not() -> str | None:
    """A sentence that says why pty-chi cannot be run here, or None where it can."""
    try:
        _imported()
    except ValueError as error:
        return str(error)
    return None


def _imported() -> tuple[Any, Any]:
    """pty-chi's task and the package of its options; ValueError where it cannot be imported."""
    try:
        _torchvision_without_operators()
        import ptychi.api as api
        from ptychi.api.task import PtychographyTask
    except ImportError as error:
        raise ValueError(f"this needs the package ptychi, which cannot be imported ({error}): {INSTALL}") from error
    return PtychographyTask, api


def _torchvision_without_operators() -> None:
    """Import torchvision also where its compiled part does not load, as that of PyPI beside the CPU build of PyTorch.

    It describes some of its operators whether they are there or not, and fails. pty-chi uses none, only a blur.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


@contextmanager
def _torch_as_before(threads: int) -> Iterator[None]:
    """So many threads; and undo afterwards what pty-chi sets for the whole process: default device and dtype."""
    import torch

    before, dtype, device = torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device()
    torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings():
            # pty-chi compares a bound with a tensor that has a gradient; nothing that a user could mend.
            warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True to a scalar", UserWarning)
            yield
    finally:
        torch.set_num_threads(before)
        torch.set_default_dtype(dtype)
        torch.set_default_device(None if device.type == "cpu" else device)


def _options(
    api: Any, engine: Engine, epochs: int, batch_size: int, fixed: bool, positions: bool, origin: np.ndarray
) -> Any:
    """Settings of a task; ``origin`` (y, x) is the object pixel under its position (0, 0)."""
    options = {"lsqml": api.LSQMLOptions, "rpie": api.RPIEOptions, "epie": api.EPIEOptions}[engine]()
    options.data_options.fft_shift = False  # its own is off by one pixel for odd N
    options.reconstructor_options.default_device = api.Devices.CPU
    options.reconstructor_options.num_epochs = epochs
    options.reconstructor_options.batch_size = batch_size
    options.object_options.determine_position_origin_coords_by = api.ObjectPosOriginCoordsMethods.SPECIFIED
    options.object_options.position_origin_coords = origin
    options.probe_position_options.optimizable = positions
    if fixed:
        options.probe_options.optimizable = False
        options.probe_options.orthogonalize_incoherent_modes.enabled = False
        options.object_options.remove_object_probe_ambiguity.enabled = False  # it scales both
        if engine == "lsqml":
            options.reconstructor_options.rescale_probe_intensity_in_first_epoch = False
    return options


def _iterate(task: Any, epochs: int, name: str, progress: Progress | None) -> list[dict[str, Any]]:
    """Epochs until the loss is no longer finite."""
    history: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        begin = time.perf_counter()
        task.run(1)
        seconds = round(time.perf_counter() - begin, 4)
        loss = float(task.reconstructor.loss_tracker.table["loss"].iloc[-1])
        history.append(dict(epoch=epoch, seconds=seconds, loss=loss))
        if progress:
            progress(name, epoch, epochs, dict(loss=loss))
        if not np.isfinite(loss):
            break
    return history
