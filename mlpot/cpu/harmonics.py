"""Real spherical harmonics to degree 3 of one unit vector, as `stages.harmonics`, written out."""

from __future__ import annotations

import numpy as np

from mlpot.kernels.simd import bare

_S3, _S5, _S7, _S15, _S105 = (float(np.sqrt(n)) for n in (3, 5, 7, 15, 105))
_A, _B = float(np.sqrt(35 / 8)), float(np.sqrt(21 / 8))


@bare
def harmonics(x, y, z, out):
    """The 16 values."""
    t = out.dtype.type
    xx, yy, zz = x * x, y * y, z * z
    out[0], out[1], out[2], out[3] = 1, t(_S3) * x, t(_S3) * y, t(_S3) * z
    out[4], out[5], out[7] = t(_S15) * x * z, t(_S15) * x * y, t(_S15) * y * z
    out[6], out[8] = t(_S5 / 2) * (3 * yy - 1), t(_S15 / 2) * (zz - xx)
    out[9], out[10] = t(_A) * x * (3 * zz - xx), t(_S105) * x * y * z
    out[11], out[13] = t(_B) * x * (5 * yy - 1), t(_B) * z * (5 * yy - 1)
    out[12], out[14] = t(_S7 / 2) * y * (5 * yy - 3), t(_S105 / 2) * y * (zz - xx)
    out[15] = t(_A) * z * (zz - 3 * xx)


@bare
def pull_back(x, y, z, bars):
    """Σ_b bars_b ∂Y_b/∂u at u = (x, y, z), three numbers."""
    t = bars.dtype.type
    xx, yy, zz = x * x, y * y, z * z
    three, four, five = t(_S15), t(_S105), t(_B)
    gx = t(_S3) * bars[1] + three * (z * bars[4] + y * bars[5] - x * bars[8])
    gy = t(_S3) * bars[2] + three * (x * bars[5] + z * bars[7]) + t(3 * _S5) * y * bars[6]
    gz = t(_S3) * bars[3] + three * (x * bars[4] + y * bars[7] + z * bars[8])
    gx += t(3 * _A) * ((zz - xx) * bars[9] - 2 * x * z * bars[15]) + four * (y * z * bars[10] - x * y * bars[14])
    gy += four * (x * z * bars[10] + t(0.5) * (zz - xx) * bars[14]) + t(10 * _B) * y * (
        x * bars[11] + z * bars[13]
    )
    gz += t(3 * _A) * (2 * x * z * bars[9] + (zz - xx) * bars[15]) + four * (x * y * bars[10] + y * z * bars[14])
    gx += five * (5 * yy - 1) * bars[11]
    gz += five * (5 * yy - 1) * bars[13]
    gy += t(_S7 / 2) * (15 * yy - 3) * bars[12]
    return gx, gy, gz


@bare
def tangents(x, y, z, dx, dy, dz, out):
    """The 16 derivatives along du = (dx, dy, dz)."""
    t = out.dtype.type
    xx, yy, zz = x * x, y * y, z * z
    out[0], out[1], out[2], out[3] = 0, t(_S3) * dx, t(_S3) * dy, t(_S3) * dz
    out[4], out[5] = t(_S15) * (dx * z + x * dz), t(_S15) * (dx * y + x * dy)
    out[7], out[6] = t(_S15) * (dy * z + y * dz), t(3 * _S5) * y * dy
    out[8] = t(_S15) * (z * dz - x * dx)
    out[9] = t(3 * _A) * ((zz - xx) * dx + 2 * x * z * dz)
    out[10] = t(_S105) * (dx * y * z + x * dy * z + x * y * dz)
    out[11] = t(_B) * ((5 * yy - 1) * dx + 10 * x * y * dy)
    out[13] = t(_B) * ((5 * yy - 1) * dz + 10 * z * y * dy)
    out[12] = t(_S7 / 2) * (15 * yy - 3) * dy
    out[14] = t(_S105 / 2) * ((zz - xx) * dy + 2 * y * (z * dz - x * dx))
    out[15] = t(3 * _A) * ((zz - xx) * dz - 2 * x * z * dx)
