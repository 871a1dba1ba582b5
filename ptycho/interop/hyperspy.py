"""HyperSpy: a scan from a signal, and signals from a result (``pip install hyperspy``; under the GPL, never needed)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.config import ReadConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.formats import ReadOptions
from ptycho.formats.microscopy import scan_of

NM = 1e9


def scan_of_signal(signal: Any, **reading: Any) -> Scan:
    """A scan from a signal with two detector axes and one or two of the scan, in counts; a lazy one is computed.

    Scale and units of the axes count, and ``Acquisition_instrument.TEM`` in the metadata: ``beam_energy`` in keV and
    ``convergence_angle`` in mrad. ``reading`` are fields of `ptycho.config.ReadConfig`, which win: what the signal does
    not tell. Raises BadFile, naming the option, for what neither tells.
    """
    data = np.asarray(signal.data)
    if data.ndim not in (3, 4):
        raise ValueError(f"a signal of {data.ndim} axes is no scan: two of the detector and one or two of the scan")
    axes = signal.axes_manager.as_dictionary().values()
    name = Path(str(signal.metadata.get_item("General.title") or "signal"))
    options = ReadOptions.of(ReadConfig(**reading))
    frames = data.reshape(-1, *data.shape[-2:])
    return scan_of(name, frames, data.shape, axes, signal.metadata.as_dictionary(), options)


def signals_of(result: Reconstruction) -> dict[str, Any]:
    """Signals ``object`` and ``probe`` (complex; its modes are an axis), and ``uncertainty`` where there is one.

    Axes are in nm where the pixel size is known, and begin where the scan has its origin.
    """
    import hyperspy.api as hs

    rows = dict(_images(result))
    signals = {}
    for name, image in rows.items():
        signal = hs.signals.ComplexSignal2D(image) if np.iscomplexobj(image) else hs.signals.Signal2D(image)
        signal.metadata.set_item("General.title", name)
        for axis, offset in zip(signal.axes_manager.signal_axes, _offset(result, name)[::-1], strict=True):
            pixel = 1.0 if result.pixel_size_m is None else result.pixel_size_m * NM
            axis.scale, axis.offset = pixel, offset * pixel
            axis.units = "px" if result.pixel_size_m is None else "nm"
        signals[name] = signal
    return signals


def _images(result: Reconstruction) -> Iterator[tuple[str, np.ndarray]]:
    yield "object", result.object
    yield "probe", result.probe
    if result.uncertainty is not None:
        yield "uncertainty", result.uncertainty


def _offset(result: Reconstruction, name: str) -> tuple[float, float]:
    """(y, x) of the first pixel, in pixels."""
    if name == "probe":
        return -(result.N // 2), -(result.N // 2)
    y, x = (0, 0) if result.origin_px is None else result.origin_px
    return float(y), float(x)
