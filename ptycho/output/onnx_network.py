"""A network as ONNX, for programs that have no Keras: the same code, traced (``pip install 'ptycho[onnx]'``).

PyTorch exports the network, physics included, as a graph of its operations. ONNX has no complex numbers: each is
carried as its real and imaginary part, and Fourier transforms become products with their matrices.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptycho.backend import backend_name
from ptycho.io import BadFile, replaced
from ptycho.network.build import PtychoNetwork
from ptycho.network.files import PACKAGED, load_model, load_pretrained

INPUTS = ("counts", "mask", "positions", "subpixel", "probe_real", "probe_imag")
OUTPUTS = ("object_real", "object_imag", "coverage")


def export_network(
    model: str | Path, target: str | Path, N: int, *, frames: int = 64, canvas: int | None = None, modes: int = 1
) -> Path:
    """Write a network to an ONNX file for frames of N x N pixels, so many at a time.

    Inputs, all float32 but the positions: ``counts (1, frames, N, N)`` with the zero frequency at pixel N // 2, ``mask
    (1, N, N)``, 1 where a pixel is used, ``positions (1, frames, 2)`` int32 (y, x): the canvas pixel under pixel N // 2
    of the probe (-2 N, off the canvas, for unused slots), ``subpixel (1, frames, 2)`` what is beyond it,
    and the probe ``(1, modes, N, N)`` in sqrt(photons), its real and its imaginary part. Outputs: the object ``(1,
    canvas, canvas)`` in two parts, and its ``coverage``.
    Near fields are left out.

    Args:
        model: a ``model.keras``, or ``pretrained``.
        target: the file.
        N: side of the frames in pixels.
        frames: how many the file takes at once.
        canvas: side of the object in pixels; None: twice that of a frame.
        modes: of the probe.

    Raises:
        ValueError: PyTorch or onnxscript is missing.
    """
    lacking = [name for name in ("torch", "onnxscript") if find_spec(name) is None]
    if lacking:
        raise ValueError(
            f"ONNX is written by packages that are not installed ({', '.join(lacking)}): pip install 'ptycho[onnx]'"
        )
    arguments = [str(model), str(target), *map(str, (N, frames, canvas or 2 * N, modes))]
    if backend_name() == "torch":
        _export(*arguments)
    else:  # a process has one backend for good
        words = [sys.executable, "-m", "ptycho.output.onnx_network", *arguments]
        # On a GPU the network would lie there, and what is traced with it here.
        surroundings = os.environ | dict(KERAS_BACKEND="torch", CUDA_VISIBLE_DEVICES="")
        done = subprocess.run(words, env=surroundings, capture_output=True, text=True)
        if done.returncode:
            *_, last = ["it was ended by the system", *done.stderr.strip().splitlines()]
            kind, _, text = last.partition(": ")
            raise (BadFile if kind.endswith("BadFile") else ValueError)(f"no ONNX file was written: {text or last}")
    return Path(target)


def _export(model: str, target: str, *sizes: str) -> None:
    import torch
    from onnxscript import opset18

    N, frames, canvas, modes = map(int, sizes)
    network = load_pretrained(PACKAGED[model]) if model in PACKAGED else load_model(model)
    network = network if network.probe is None else network.without_probe()
    inputs = _example(N, frames, modes)
    with torch.no_grad():
        traced = torch.export.export(_as_module(network, canvas), inputs).run_decompositions()
        real = _without_complex(traced.module())
        lacking: Any = {torch.ops.prims.view_of.default: opset18.Identity}  # type: ignore[attr-defined]
        program = torch.onnx.export(
            real,
            inputs,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamo=True,
            verbose=False,
            custom_translation_table=lacking,
        )
    assert program is not None
    with replaced(target) as partial:
        program.save(str(partial))


def _example(N: int, frames: int, modes: int) -> tuple[Any, ...]:
    """Inputs of the right sizes."""
    import torch

    shapes = ((1, frames, N, N), (1, N, N), (1, frames, 2), (1, frames, 2), (1, modes, N, N), (1, modes, N, N))
    positions = INPUTS.index("positions")
    return tuple(
        torch.ones(shape, dtype=torch.int32 if k == positions else torch.float32) for k, shape in enumerate(shapes)
    )


def _as_module(network: PtychoNetwork, side: int) -> Any:
    """The network as a function of real arrays alone."""
    import torch

    class OfParts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, counts, mask, positions, subpixel, probe_real, probe_imag):  # type: ignore[no-untyped-def]
            inputs = dict(counts=counts, mask=mask, positions=positions, subpixel=subpixel)
            inputs |= dict(canvas=torch.zeros(1, side, side), probe=torch.complex(probe_real, probe_imag))
            made = self.network(inputs)
            return made["canvas"].real, made["canvas"].imag, made["coverage"]

    return OfParts().eval()


class Parts(NamedTuple):
    """A complex array."""

    real: Any
    imag: Any


def _without_complex(graph: Any) -> Any:
    """A module that computes what a traced graph does, by real arrays alone."""
    import torch

    class Interpreter(torch.fx.Interpreter):
        def get_attr(self, target, args, kwargs):  # type: ignore[no-untyped-def]
            constant = super().get_attr(target, args, kwargs)
            return Parts(constant.real.clone(), constant.imag.clone()) if constant.is_complex() else constant

        def call_function(self, target, args, kwargs):  # type: ignore[no-untyped-def]
            name = str(target).partition(".")[2].partition(".")[0]
            if name == "_assert_tensor_metadata":
                return None
            if name in ("alias", "clone", "detach", "view_of"):  # nothing here writes into an array
                return args[0]
            if name == "view":  # of what was cloned to be contiguous
                target = torch.reshape
            if name == "index_put":  # ScatterND takes 64 bits
                args = (args[0], [index.long() for index in args[1]], *args[2:])
            if name in RULES and (name in ("complex", "full") or any(map(_is_complex, args))):
                return RULES[name](target, *args, **kwargs)
            if any(map(_is_complex, args)):  # what only moves or adds up numbers does the same to both parts
                assert name in BOTH_ALIKE, f"no rule for the complex operation {name}"
                assert name not in ("add", "sub") or all(map(_is_complex, args[:2])), (
                    "a real number has no imaginary part"
                )
                return Parts(*(target(*_component(args, k), **kwargs) for k in (0, 1)))
            return super().call_function(target, args, kwargs)

    class Real(torch.nn.Module):
        def forward(self, *inputs):  # type: ignore[no-untyped-def]
            return Interpreter(graph).run(*inputs)

    return Real()


BOTH_ALIKE = (
    "add", "cat", "expand", "index_put", "index_select", "neg", "permute", "select", "slice", "squeeze", "sub",
    "sum", "unsqueeze", "view",
)  # fmt: skip
"""Operations that are linear in the complex array, with real coefficients."""


def _is_complex(value: Any) -> bool:
    return isinstance(value, Parts) or (isinstance(value, list | tuple) and any(map(_is_complex, value)))


def _component(value: Any, k: int) -> Any:
    """The arguments of an operation with the real (0) or imaginary (1) parts in place of complex arrays."""
    if isinstance(value, Parts):
        return value[k]
    return type(value)(_component(each, k) for each in value) if isinstance(value, list | tuple) else value


def _complex(target: Any, real: Any, imag: Any) -> Parts:
    return Parts(real, imag)


def _conj(target: Any, wave: Parts) -> Parts:
    return Parts(wave.real, -wave.imag)


def _view_as_real(target: Any, wave: Parts) -> Any:
    import torch

    return torch.stack([wave.real, wave.imag], dim=-1)


def _mul(target: Any, a: Any, b: Any) -> Parts:
    """``(a + i b) (c + i d) = (a c - b d) + i (a d + b c)``."""
    if not isinstance(a, Parts):
        a, b = b, a
    if not isinstance(b, Parts):
        return Parts(a.real * b, a.imag * b)
    return Parts(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)


def _full(target: Any, size: Sequence[int], value: complex, dtype: Any = None, **kwargs: Any) -> Any:
    import torch

    if dtype is None or not dtype.is_complex:
        return target(size, value, dtype=dtype, **kwargs)
    return Parts(
        *(torch.full(size, number, dtype=torch.float32) for number in (complex(value).real, complex(value).imag))
    )


def _fft(target: Any, wave: Parts, axes: Sequence[int], normalization: int, forward: bool) -> Parts:
    """``y = F x F^T`` with ``F = exp(-+ 2 pi i j k / n)``; normalization 0: none, 1: over sqrt(n m), 2: over n m."""
    import torch

    assert [axis % wave.real.ndim for axis in axes] == [wave.real.ndim - 2, wave.real.ndim - 1], axes
    for axis in (-1, -2):
        n = wave.real.shape[axis]
        # j k modulo n, so that the angle keeps its digits
        angle = (2 * np.pi / n) * (np.outer(np.arange(n), np.arange(n)) % n)
        scale = float(n) ** (-normalization / 2)
        cos = torch.tensor((np.cos(angle) * scale).astype("float32"))
        sin = torch.tensor((np.sin(angle) * scale * (-1 if forward else 1)).astype("float32"))
        real, imag = (z if axis == -1 else z.transpose(-1, -2) for z in wave)
        # The matrix is symmetric: from the right it acts on the last axis.
        real, imag = real @ cos - imag @ sin, real @ sin + imag @ cos
        wave = Parts(*(z if axis == -1 else z.transpose(-1, -2) for z in (real, imag)))
    return wave


RULES: dict[str, Callable[..., Any]] = dict(
    complex=_complex, full=_full, _conj=_conj, mul=_mul, view_as_real=_view_as_real, _fft_c2c=_fft
)


if __name__ == "__main__":
    _export(*sys.argv[1:])
