"""py4DSTEM: a scan from a DataCube in memory; how the two are installed side by side: docs/howto/formats.md."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.config import ReadConfig
from ptycho.data.scan import Scan
from ptycho.formats import ReadOptions
from ptycho.formats._raster import RasterFacts, raster_scan
from ptycho.formats.emd import detector_pixel, geometry, step_m


def scan_of_datacube(cube: Any, **reading: Any) -> Scan:
    """A scan from ``cube.data (Rx, Ry, Qx, Qy)`` and its calibration, as from the file that py4DSTEM writes of it.

    Pixel sizes, ``QR_rotation``, ``QR_flip``, the origin and ``probe_semiangle`` count. ``reading`` are fields of
    `ptycho.config.ReadConfig`, which win. Raises BadFile, naming the option, for what neither tells.
    """
    data = np.asarray(cube.data)
    if data.ndim != 4:
        raise ValueError(f"a cube of {data.ndim} axes is no scan; expected (Rx, Ry, Qx, Qy)")

    def stated(name: str) -> Any:
        with suppress(KeyError, AttributeError):
            return cube.calibration[name]
        return None

    def number(name: str) -> float | None:
        value = stated(name)
        return None if value is None or isinstance(value, str) else float(value)

    name = Path(str(getattr(cube, "name", "datacube")))
    scan_step, scan_unit = number("R_pixel_size") or 1.0, str(stated("R_pixel_units") or "pixels")
    facts = RasterFacts(
        shape=(data.shape[0], data.shape[1]),
        step_m=step_m([(abs(scan_step), scan_unit)] * 2),
        detector_pixel=detector_pixel(number("Q_pixel_size") or 1.0, str(stated("Q_pixel_units") or "pixels")),
        **geometry(name, number),
    )
    return raster_scan(name, data.reshape(-1, *data.shape[-2:]), facts, ReadOptions.of(ReadConfig(**reading)))
