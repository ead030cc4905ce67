"""Values with their first two derivatives through SiLU and an envelope, for tables on knots.

Arrays hold f, f′ and f″ by a distance in units of an interval: (n_networks, 3, n_knots, n_features). The bias of
the layer before, (n_networks, n_features), is added here, to f alone. Each function has its adjoint beside it: one
pass over the numbers instead of some thirty operations of PyTorch.
"""

from __future__ import annotations

from mlpot.kernels.simd import compiled, exp


@compiled
def activate(f, bias, out):
    """φ(f), φ′ f′, φ″ f′² + φ′ f″ with φ(x) = x σ(x)."""
    one, two = f.dtype.type(1), f.dtype.type(2)
    for n in range(f.shape[0]):
        for k in range(f.shape[2]):
            for c in range(f.shape[3]):
                x, f1, f2 = f[n, 0, k, c] + bias[n, c], f[n, 1, k, c], f[n, 2, k, c]
                s = one / (one + exp(-x))
                slope = s * (one + x * (one - s))
                curvature = s * (one - s) * (two + x * (one - two * s))
                out[n, 0, k, c] = x * s
                out[n, 1, k, c] = slope * f1
                out[n, 2, k, c] = curvature * f1 * f1 + slope * f2


@compiled
def activate_adjoint(f, bias, g, out, bias_out):
    """Gradients by f and by the bias of Σ g · activate(f, bias)."""
    one, two, three = f.dtype.type(1), f.dtype.type(2), f.dtype.type(3)
    bias_out[:] = 0
    for n in range(f.shape[0]):
        for k in range(f.shape[2]):
            for c in range(f.shape[3]):
                x, f1, f2 = f[n, 0, k, c] + bias[n, c], f[n, 1, k, c], f[n, 2, k, c]
                g0, g1, g2 = g[n, 0, k, c], g[n, 1, k, c], g[n, 2, k, c]
                s = one / (one + exp(-x))
                s1 = s * (one - s)
                s2 = s1 * (one - two * s)
                s3 = s2 * (one - two * s) - two * s1 * s1
                slope, curvature, third = s + x * s1, two * s1 + x * s2, three * s2 + x * s3
                by_value = slope * g0 + curvature * f1 * g1 + (third * f1 * f1 + curvature * f2) * g2
                out[n, 0, k, c] = by_value
                out[n, 1, k, c] = slope * g1 + two * curvature * f1 * g2
                out[n, 2, k, c] = slope * g2
                bias_out[n, c] += by_value


@compiled
def envelop(f, bias, u, out):
    """u f with its first two derivatives as rows of quintic tables (n_networks, 4 n_knots − 2, n_features).

    Those of `stages.spline_grid`: (u f)′, (u f)″, u f and its change to the next knot; u (3, n_knots).
    """
    two, last = f.dtype.type(2), f.shape[2] - 1
    for n in range(f.shape[0]):
        for k in range(last + 1):
            u0, u1, u2, row = u[0, k], u[1, k], u[2, k], 4 * k
            for c in range(f.shape[3]):
                f0, f1, f2 = f[n, 0, k, c] + bias[n, c], f[n, 1, k, c], f[n, 2, k, c]
                out[n, row, c] = u1 * f0 + u0 * f1
                out[n, row + 1, c] = u2 * f0 + two * u1 * f1 + u0 * f2
            if k < last:
                for c in range(f.shape[3]):
                    out[n, row + 2, c] = u0 * (f[n, 0, k, c] + bias[n, c])
                    after = u[0, k + 1] * (f[n, 0, k + 1, c] + bias[n, c])
                    out[n, row + 3, c] = after - out[n, row + 2, c]


@compiled
def envelop_adjoint(u, g, out, bias_out):
    """Gradients by f and by the bias of Σ g · envelop(f, bias, u)."""
    two, last = g.dtype.type(2), u.shape[1] - 1
    bias_out[:] = 0
    for n in range(g.shape[0]):
        for k in range(last + 1):
            u0, u1, u2, row = u[0, k], u[1, k], u[2, k], 4 * k
            for c in range(g.shape[2]):
                out[n, 0, k, c] = g[n, row - 1, c] if k else g.dtype.type(0)
            if k < last:
                for c in range(g.shape[2]):
                    out[n, 0, k, c] += g[n, row + 2, c] - g[n, row + 3, c]
            for c in range(g.shape[2]):
                g0, g1, g2 = out[n, 0, k, c], g[n, row, c], g[n, row + 1, c]
                by_value = u0 * g0 + u1 * g1 + u2 * g2
                out[n, 0, k, c] = by_value
                out[n, 1, k, c] = u0 * g1 + two * u1 * g2
                out[n, 2, k, c] = u0 * g2
                bias_out[n, c] += by_value
