"""Two files that make one scan: frames in ``*_dp.hdf5`` as ``dp``, everything else in ``*_para.hdf5``.

Ptychodus, PtychoViT and fold_slice share these names, and nothing else: axes, units and keys of the second differ.
"""

from pathlib import Path

FRAMES = "_dp"
PARAMETERS = "_para"
SUFFIXES = (".hdf5", ".h5", ".npz")


def of(path: Path) -> tuple[Path, Path | None]:
    """``(parameters, frames)`` that belong to either of them, by their names; frames may be None."""
    if path.stem.endswith(FRAMES):
        base = path.stem.removesuffix(FRAMES)
        return _beside(path, f"{base}{PARAMETERS}", base) or path, path
    base = path.stem.removesuffix(PARAMETERS)
    return path, _beside(path, f"{base}{FRAMES}")


def frames_for(path: Path) -> Path:
    """Where the frames of parameters at a path are written."""
    return path.with_name(f"{path.stem.removesuffix(PARAMETERS)}{FRAMES}{path.suffix}")


def _beside(path: Path, *stems: str) -> Path | None:
    """The first file beside the path that has one of the stems."""
    candidates = (path.with_name(stem + suffix) for stem in stems for suffix in (path.suffix, *SUFFIXES))
    return next((file for file in candidates if file != path and file.is_file()), None)
