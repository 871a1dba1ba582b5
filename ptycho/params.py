"""The settings dictionary of old scripts. It is read once, at the compatibility door, into a frozen config.

A script writes ``params.cfg["N"] = 64`` or ``params.set("N", 64)`` and then calls `ptycho.model` or
`ptycho.tf_helper`. Those, and only those, read ``cfg``: at that call, never at import, and never write it.
What they build keeps its own frozen settings (`ptycho.config`), so a later change reaches the next model, not
one that exists. New code passes a config instead; ruff bans this module everywhere else.
"""

import warnings
from difflib import get_close_matches
from typing import Any

cfg: dict[str, Any] = {
    "N": 128,  # side of the detector frames, pixels
    "gridsize": 2,  # groups are gridsize x gridsize frames
    "offset": 4,  # distance of neighbouring frames in a group, pixels
    "batch_size": 16,
    "nepochs": 60,
    "n_filters_scale": 2,  # width of the network
    "max_position_jitter": 10,  # pixels
    "nphotons": 1e9,  # photons in a frame
    "mae_weight": 0,
    "nll_weight": 1,
    "tv_weight": 0,
    "realspace_weight": 0,
    "object.big": True,  # frames of a group see parts of one larger object
    "probe.big": False,
    "probe.mask": True,
    "probe.trainable": False,
    "intensity_scale.trainable": False,
    "amp_activation": "sigmoid",
    "gaussian_smoothing_sigma": 0,
    "use_xla_translate": True,
}
_KNOWN = tuple(cfg)


def get(key: str) -> Any:
    """Value of a setting; KeyError, naming the keys that look like it, if there is none."""
    if key in cfg:
        return cfg[key]
    raise KeyError(f"no setting {key!r}; {_suggestion(key, tuple(cfg))}")


def set(key: str, value: Any) -> None:
    """Change a setting for what is built from now on; a key that nothing reads is kept, with a warning."""
    if key not in _KNOWN:
        warnings.warn(f"setting {key!r} has no effect; {_suggestion(key, _KNOWN)}", stacklevel=2)
    cfg[key] = value


def params() -> dict[str, Any]:
    """A copy of the settings as they are now."""
    return dict(cfg)


def _suggestion(key: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(str(key), known)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {', '.join(known)}"
