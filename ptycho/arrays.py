"""Array annotations: shape and dtype are stated, the array library is left open.

jaxtyping takes ``Array = Any`` as "anything with this shape and dtype", so no array library is imported here.
The checks run in the tests only (``--jaxtyping-packages``).

Axis letters, the same everywhere: ``P`` scan positions, ``B`` batch, ``C`` patterns in a group, ``M`` probe
modes, ``n`` detector (and patch) side, ``H W`` object or canvas.
"""

from typing import Any

from jaxtyping import Bool, Complex, Float, Inexact, Int, Num, Real, Shaped

Array = Any

__all__ = ["Array", "Bool", "Complex", "Float", "Inexact", "Int", "Num", "Real", "Shaped"]
