"""The corrected FTRL follows the paper."""

import numpy as np
from river import linear_model

from pruning.optim import FTRLProximal


def test_weights_are_the_closed_form_of_the_state_after_every_step() -> None:
    """w is exactly 0 where |z| ≤ λ₁, and −(z − sgn(z)λ₁)/((β+√n)/α + λ₂) elsewhere."""
    rng = np.random.default_rng(3)
    optimizer = FTRLProximal(alpha=0.3, beta=0.5, l1=0.8, l2=0.7)
    model = linear_model.LogisticRegression(optimizer, intercept_lr=0)
    seen_zero = 0
    for _ in range(400):
        x = {f"f{i}": float(rng.normal()) for i in rng.choice(30, 4, replace=False)}
        model.learn_one(x, bool(rng.random() < 0.5 + 0.2 * ("f1" in x)))
        for name, z in optimizer.z.items():
            w = model.weights.get(name, 0.0)
            if abs(z) <= 0.8:
                seen_zero += 1
                assert w == 0.0
            else:
                assert w == -(z - np.sign(z) * 0.8) / ((0.5 + optimizer.n[name] ** 0.5) / 0.3 + 0.7)
    assert seen_zero > 100
