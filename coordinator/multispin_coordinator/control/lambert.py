"""The real branches of Lambert's W (w e^w = z), by logarithms, so that nothing overflows.

>>> float(lambert_w0_exp(1.0))
1.0
>>> round(float(lambert_minus_wm1_exp(0.0)), 6)
1.0
"""

import numpy as np
import numpy.typing as npt

__all__ = ["lambert_minus_wm1_exp", "lambert_w0_exp"]

Floats = npt.NDArray[np.float64]

NEWTON_STEPS = 7  # both start near and converge quadratically


def lambert_w0_exp(x: npt.ArrayLike) -> Floats:
    """Return w = W_0(e^x), that is w + ln w = x, for any real x; shape as given."""
    given = np.asarray(x, np.float64)
    # Small x: w is near e^x. Large x: w is near x - ln x.
    w = np.where(given > 1, given - np.log(np.maximum(given, 1)), np.exp(np.minimum(given, 1)) / np.e)
    for _ in range(NEWTON_STEPS):
        w = w * (1 + given - np.log(np.maximum(w, 1e-300))) / (1 + w)
    return np.asarray(w)


def lambert_minus_wm1_exp(u: npt.ArrayLike) -> Floats:
    """Return y = -W_{-1}(-e^(-u-1)), that is y - ln y = 1 + u with y >= 1, for u >= 0; shape as given.

    Source of the start: I. Chatzigeorgiou, Bounds on the Lambert function, IEEE Comm. Letters 17 (2013), Theorem 1.
    """
    given = np.maximum(np.asarray(u, np.float64), 0.0)
    y = 1 + np.sqrt(2 * given) + given  # not below the root; from there Newton falls to it and never crosses
    for _ in range(NEWTON_STEPS):
        slope = np.maximum(1 - 1 / y, 1e-12)
        y = np.maximum(y - (y - np.log(y) - 1 - given) / slope, 1.0)
    return np.asarray(y)
