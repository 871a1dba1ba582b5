"""Where a result comes from: the scan, its measured dose, and the versions of what computed it."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import ptycho
from ptycho.backend import backend_name
from ptycho.data.scan import Scan

Record = dict[str, Any]
"""Values that JSON holds, by name."""


def software() -> Record:
    """The versions of what computes."""
    backend = backend_name()
    names = ("keras", backend, "numpy", "scipy")
    versions = {name: version(name) for name in names} | {"python": platform.python_version()}
    return dict(ptycho=ptycho.__version__, versions=versions, backend=backend)


def provenance(scan: Scan) -> Record:
    """Where a result of a scan comes from."""
    return software() | dict(
        source=str(scan.source),
        frames=len(scan),
        counts_per_frame=scan.mean_counts,
        notes=list(scan.notes),
        **({} if scan.reading is None else dict(reading=scan.reading.stated())),
        **({} if scan.near_field is None else dict(near_field=scan.near_field.to_dict())),
        **({} if scan.pixel_size_m is None else dict(pixel_size_m=scan.pixel_size_m)),
        **({} if scan.beam is None else dict(beam=asdict(scan.beam))),
    )
