"""The hot operations: sums over edges and, on knots, radial convolutions."""

import os

if (_threads := os.environ.get("NUMBA_NUM_THREADS", "1").strip()).lstrip("-").isdigit() and int(_threads) < 1:
    raise ValueError(
        f"NUMBA_NUM_THREADS={_threads} is set, and Numba starts with no number below 1. Unset it: mlpot has as "
        "many threads as OMP_NUM_THREADS says."
    )
