"""Old names, which work for one release: each use is a DeprecationWarning that tells the new one.

One table of settings and keyword arguments, one of modules; a new row is all that another renaming takes.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar, cast

KEYS: dict[str, dict[str, str]] = {
    "RefineConfig": dict(
        withheld="held_out",
        drift_weight="h1_weight",
        anchor_weight="l2_weight",
        variation_from="opr_from",
        variations="opr_modes",
    ),
    "functions": dict(withheld="held_out", withhold_every="hold_out_every", report="progress", views="symmetries"),
}
"""Old and new names: fields of a config, and keyword arguments of the functions that take them."""

MODULES: dict[str, tuple[str, ...]] = {
    "ptycho.calibration": ("ptycho.evaluation.calibration",),
    "ptycho.checkpoint": ("ptycho.network.files",),
    "ptycho.comparison": ("ptycho.pipelines.compare",),
    "ptycho.data.checks": ("ptycho.diagnostics.checks",),
    "ptycho.data.doctor": ("ptycho.diagnostics.statistics",),
    "ptycho.data.formats": ("ptycho.formats",),
    "ptycho.data.mending": ("ptycho.diagnostics.repair",),
    "ptycho.data.orientation": ("ptycho.diagnostics.orientation",),
    "ptycho.data.stored": ("ptycho.data.frames",),
    "ptycho.evaluation": ("ptycho.evaluation.residuals", "ptycho.evaluation.plausibility"),
    "ptycho.evaluation.bound": ("ptycho.evaluation.cramer_rao",),
    "ptycho.evaluation.frames": ("ptycho.evaluation.residuals",),
    "ptycho.evaluation.trust": (
        "ptycho.evaluation.residuals",
        "ptycho.evaluation.uncertainty",
        "ptycho.evaluation.plausibility",
    ),
    "ptycho.exports": ("ptycho.output.export",),
    "ptycho.files": ("ptycho.io",),
    "ptycho.live": ("ptycho.output.live",),
    "ptycho.network.layers": ("ptycho.network.unet", "ptycho.network.probe"),
    "ptycho.pictures": ("ptycho.images",),
    "ptycho.plotting": ("ptycho.output.figures", "ptycho.output.images"),
    "ptycho.pretraining": ("ptycho.training.pretrain",),
    "ptycho.reconstruction.blind": ("ptycho.reconstruction.probe_retrieval",),
    "ptycho.reconstruction.refine": ("ptycho.refinement.refine",),
    "ptycho.reconstruction.refine.fit": ("ptycho.refinement.refine",),
    "ptycho.reconstruction.result": ("ptycho.data.reconstruction",),
    "ptycho.reconstruction.spread": ("ptycho.reconstruction.distributed",),
    "ptycho.replay": ("ptycho.reconstruction.replay",),
    "ptycho.report": ("ptycho.output.report",),
    "ptycho.progress": ("ptycho.output.progress_bars",),
    "ptycho.runs": tuple(
        f"ptycho.pipelines.{name}"
        for name in ("open", "train", "reconstruct", "refine", "stream", "demo", "assess", "write", "provenance")
    ),
    "ptycho.training": tuple(
        f"ptycho.training.{name}" for name in ("train", "batches", "schedule", "losses", "collapse", "checkpoint")
    ),
}
"""Old modules, and those that hold their names now. Some are still there, with other names (`moved_names`)."""

NAMES = {
    "ptycho.data.mending.mended": "repaired",
    "ptycho.evaluation.Trust": "ResidualSummary",
    "ptycho.evaluation.light_let_through": "transmitted_fraction",
    "ptycho.evaluation.trust.Trust": "ResidualSummary",
    "ptycho.evaluation.trust.brightest_photons": "peak_photons",
    "ptycho.evaluation.trust.light_let_through": "transmitted_fraction",
    "ptycho.evaluation.trust.lit_pixels": "illuminated_pixels",
    "ptycho.runs.judge": "assess",
    "ptycho.runs.look_wrong": "network_warnings",
    "ptycho.runs.ready_model": "model_for",
    "ptycho.runs.warnings_of": "image_warnings",
}
"""Names of old modules that are others now."""

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)


def warn(old: str, new: str, stacklevel: int = 2) -> None:
    """Tell who called the caller of this that a name is an old one."""
    warnings.warn(f"{old} is now {new}; the old name goes with the next release", DeprecationWarning, stacklevel + 1)


def renamed_keys(table: str, values: Mapping[str, Any], stacklevel: int = 3) -> dict[str, Any]:
    """A mapping with the new names of a table of `KEYS`, for those old ones that it has."""
    names = KEYS.get(table, {})
    for old in names.keys() & values.keys():
        if names[old] in values:
            raise ValueError(f"{names[old]} is given twice, once by its old name {old}")
        warn(old, names[old], stacklevel)
    return {names.get(key, key): value for key, value in values.items()}


def renamed_keywords(function: Function, table: str = "functions") -> Function:
    """A function that takes keyword arguments by their old names too, see `KEYS`."""

    @wraps(function)
    def renamed(*args: Any, **keywords: Any) -> Any:
        return function(*args, **renamed_keys(table, keywords))

    return cast(Function, renamed)


def renamed_fields(config: Class) -> Class:
    """A class that is made with its fields by their old names too, see `KEYS`."""
    config.__init__ = renamed_keywords(config.__init__, config.__name__)  # type: ignore[misc]
    return config


def renamed_attribute(old: str, new: str) -> property:
    """An attribute that gives another's value under its old name."""

    def value(self: Any) -> Any:
        warn(old, new)
        return getattr(self, new)

    return property(value, doc=f"The old name of `{new}`.")


class _MovedModules(MetaPathFinder, Loader):
    """Makes the modules of `MODULES`, where the ordinary ways of finding one have failed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if _homes(fullname) else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        homes = _homes(module.__name__)
        warn(f"the module {module.__name__}", " or ".join(homes))
        module.__getattr__ = lambda name: _first(homes, NAMES.get(f"{module.__name__}.{name}", name))  # type: ignore[method-assign]


def moved_names(module: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module that has given names away."""

    def value(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = NAMES.get(f"{module}.{name}", name)
        attribute = _first(MODULES[module], new)
        warn(f"{module}.{name}", f"in {' or '.join(MODULES[module])}" if new == name else f"{module}.{new}")
        return attribute

    return value


def _homes(name: str) -> tuple[str, ...]:
    """Where the names of an old module are now; a module of an old package is one of the new package."""
    parent, _, child = name.rpartition(".")
    return MODULES.get(name) or tuple(f"{home}.{child}" for home in MODULES.get(parent, ()))


def _first(homes: Iterable[str], name: str) -> Any:
    for home in homes:
        module = import_module(home)
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"none of {', '.join(homes)} has {name!r}")


def find_moved_modules() -> None:
    """Let imports of old modules succeed."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
