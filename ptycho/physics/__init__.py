"""Pure functions of arrays: the diffraction physics and its adjoints, differentiable on every Keras backend.

Conventions, written once and kept everywhere
---------------------------------------------
- Axis letters: ``P`` scan positions, ``B`` batch, ``C`` patterns in a group, ``M`` probe modes, ``n`` (or ``N``)
  side of the square detector and of a patch, odd or even, ``H W`` object or canvas.
- Pixel order is (y, x), y grows down, pixel centres are integers. The centre of ``n`` pixels is pixel ``n // 2``.
- Patterns are photon *counts* (intensity, not amplitude), with zero frequency at pixel ``(n // 2, n // 2)``.
- The object is the complex transmission. The probe ``(M, n, n)`` is in sqrt(photons): with an empty sample the
  expected total of a pattern is ``sum |probe|^2``. Modes add incoherently.
- A position is the object coordinate, in object pixels, under probe pixel ``(n // 2, n // 2)``.
- The far field is the unitary centred DFT: photons are conserved.
- In the near field detector pixels are those of the patch, pixel ``n // 2`` behind probe pixel ``n // 2``. Lengths
  along the beam are in object pixels too; a wave is ``exp(i (k x - omega t))``.
- A positive shift ``(dy, dx)`` moves content towards larger indices: ``out[y, x] = in[y - dy, x - dx]``.
- `extract` reads patches from a canvas (zero outside it); `accumulate` is its exact adjoint.
- Masks are True where a pixel is used.
"""
