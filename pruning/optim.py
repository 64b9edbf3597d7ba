"""FTRL-Proximal for River's linear models, as published.

River 0.26's optimizer computes the weight before it adds the current gradient and never writes a zero
again. This subclass follows the paper: the weight is always the closed form of (z, n) after the step, and
it is exactly zero where |z| ≤ λ₁.

References
----------
McMahan, H.B. et al., 2013. Ad click prediction: a view from the trenches. KDD, algorithm 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from river import optim


class FTRLProximal(optim.FTRLProximal):  # type: ignore[misc]  # River is untyped here
    """FTRL-Proximal whose weights are exact after every step.

    w = 0 if |z| ≤ λ₁, else −(z − sgn(z)·λ₁) / ((β + √n)/α + λ₂)

    Parameters
    ----------
    alpha
        Learning rate.
    beta
        Smoothing of the per-coordinate rate.
    l1
        Weights with |z| ≤ l1 are exactly zero, and are not stored.
    l2
        Shrinkage.

    Examples
    --------
    >>> from river import linear_model
    >>> model = linear_model.LogisticRegression(FTRLProximal(alpha=0.2), intercept_lr=0)
    >>> model.learn_one({"a": 1.0}, True)
    >>> round(model.weights["a"], 4)      # −z / ((1 + √.25)/.2 + 1) with z = −.5
    0.0588
    """

    def _step_with_dict(self, w: Any, g: Any) -> Any:
        alpha, beta, l1, l2, z, n = self.alpha, self.beta, self.l1, self.l2, self.z, self.n
        is_array = isinstance(w, np.ndarray)
        for i, gi in g.items():
            wi = w[i] if is_array else w.get(i, 0.0)
            ni = n[i]
            total = ni + gi * gi
            root = math.sqrt(total)
            zi = z[i] = z[i] + gi - (root - math.sqrt(ni)) / alpha * wi
            n[i] = total
            if abs(zi) > l1:
                w[i] = -(zi - math.copysign(l1, zi)) / ((beta + root) / alpha + l2)
            elif is_array:
                w[i] = 0.0
            else:
                w.pop(i, None)  # absent is zero in every dict a River model reads
        return w
