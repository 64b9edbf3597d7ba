"""Sparsity while training: soft threshold, truncated gradient, group lasso, dropout. All off by default.

Pruning a densely trained model afterwards loses less at the same size (docs/pruning.md has the figures);
these are here because they bound a trainer that has no other bound, and because people ask for them by name.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from river import base, optim

from pruning.errors import ParameterError
from pruning.tables import weight_tables


def soft_threshold(weights: ArrayLike, strength: float) -> NDArray[np.float64]:
    """The proximal step of L1, sign(w) · relu(|w| − strength): small weights become exactly zero.

    >>> soft_threshold([-2., .5, 3.], 1.)
    array([-1.,  0.,  2.])
    """
    w = np.asarray(weights, np.float64)
    shrunk: NDArray[np.float64] = np.sign(w) * np.maximum(np.abs(w) - strength, 0.0)
    return shrunk


def truncate(weights: ArrayLike, gravity: float, threshold: float) -> NDArray[np.float64]:
    """Langford's truncation: a soft threshold that leaves weights above `threshold` alone.

    >>> truncate([-2., .5, 3.], 1., 2.5)
    array([-1.,  0.,  3.])
    """
    w = np.asarray(weights, np.float64)
    return np.where(np.abs(w) <= threshold, soft_threshold(w, gravity), w)


def group_soft_threshold(weights: ArrayLike, groups: ArrayLike, strength: float) -> NDArray[np.float64]:
    """The proximal step of the group lasso: a group shrinks by `strength` · √size in length, or vanishes.

    Parameters
    ----------
    weights
        (n,).
    groups
        Group of each weight, such as `Snapshot.field`, (n,).
    strength
        ≥ 0.

    Examples
    --------
    >>> group_soft_threshold([3., 4., .1], [7, 7, 8], 1.).round(3)
    array([2.151, 2.869, 0.   ])

    References
    ----------
    Yang, H., Xu, Z., King, I., Lyu, M., 2010. Online learning for group lasso. ICML.
    """
    w = np.asarray(weights, np.float64)
    _, group, size = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    norm = np.sqrt(np.bincount(group, w**2))
    kept = np.maximum(0.0, 1.0 - strength * np.sqrt(size) / np.maximum(norm, 1e-300))
    shrunk: NDArray[np.float64] = w * kept[group]
    return shrunk


class TruncatedGradient(optim.SGD):  # type: ignore[misc]  # River is untyped here
    """SGD for River models that pulls weights to zero as it goes; what reaches zero is deleted.

    The pull on a feature is made up for when it is next touched, so a step costs nothing for the others.

    Parameters
    ----------
    lr
        Learning rate.
    gravity
        Pull per step, times the learning rate.
    threshold
        Weights above it feel no pull; infinite for proximal L1 (ReLU-like soft thresholding).

    Examples
    --------
    >>> from river import linear_model
    >>> model = linear_model.LogisticRegression(TruncatedGradient(.1, gravity=.2))
    >>> for i in range(300):
    ...     model.learn_one({"good": 1.0 if i % 2 else -1.0, "noise": 1.0 if i % 3 else -1.0}, bool(i % 2))
    >>> list(model.weights)
    ['good']

    References
    ----------
    Langford, J., Li, L., Zhang, T., 2009. Sparse online learning via truncated gradient. JMLR 10.
    """

    def __init__(self, lr: float = 0.01, gravity: float = 0.01, threshold: float = math.inf):
        super().__init__(lr)
        if gravity < 0 or threshold < 0:
            raise ParameterError("gravity and threshold must be at least 0")
        self.gravity = gravity
        self.threshold = threshold
        self.touched: dict[Hashable, int] = {}

    def _step_with_vector(self, w: Any, g: Any) -> Any:
        raise NotImplementedError  # River then takes the path below, which knows the features

    def _step_with_dict(self, w: Any, g: Any) -> Any:
        rate, now = self.learning_rate, self.n_iterations + 1
        for i, gi in g.items():
            waited = now - self.touched.get(i, now - 1)
            old = w.get(i, 0.0)
            pull = rate * self.gravity
            if abs(old) <= self.threshold:  # the steps it was not touched
                old = math.copysign(max(abs(old) - pull * (waited - 1), 0.0), old)
            new = old - rate * gi
            if abs(new) <= self.threshold:
                new = math.copysign(max(abs(new) - pull, 0.0), new)
            if new == 0.0:
                w.pop(i, None)
                self.touched.pop(i, None)
            else:
                w[i] = new
                self.touched[i] = now
        return w


class FeatureDropout(base.Wrapper, base.Classifier):  # type: ignore[misc]  # River is untyped here
    """Learns from examples with some features left out at random; predicts with all of them.

    It did not help online linear models where it was measured (docs/pruning.md). With `targeted` below 1 only
    the smallest weights of an example are at risk, which prepares a model for magnitude pruning.

    Parameters
    ----------
    model
        A binary classifier.
    rate
        Probability that a feature at risk is left out.
    targeted
        Share of the features of an example that is at risk, the smallest weights first.
    seed
        The choice depends on the seed, the step and the feature alone.

    Examples
    --------
    >>> from river import linear_model
    >>> model = FeatureDropout(linear_model.LogisticRegression(), rate=.5)
    >>> model.learn_one({"a": 1.0, "b": 1.0, "c": 1.0}, True)
    >>> sorted(model.model.weights)
    ['c']

    References
    ----------
    Gomez, A. et al., 2019. Learning sparse networks using targeted dropout. arXiv:1905.13678.
    """

    def __init__(self, model: base.Classifier, rate: float = 0.2, targeted: float = 1.0, seed: int = 0):
        if not 0 <= rate < 1 or not 0 < targeted <= 1:
            raise ParameterError("rate lies in [0, 1) and targeted in (0, 1]")
        self.model = model
        self.rate = rate
        self.targeted = targeted
        self.seed = seed
        self._step = 0

    @property
    def _wrapped_model(self) -> base.Classifier:
        return self.model

    @classmethod
    def _unit_test_params(cls) -> Any:
        from river import linear_model  # noqa: PLC0415  # only for River's own checks

        yield {"model": linear_model.LogisticRegression()}

    def learn_one(self, x: Mapping[Hashable, Any], y: Any, **kwargs: Any) -> None:
        """Learn without the features that fell out."""
        self._step += 1
        self.model.learn_one({k: v for k, v in x.items() if k not in self._dropped(x)}, y, **kwargs)

    def predict_proba_one(self, x: Mapping[Hashable, Any], **kwargs: Any) -> dict[Any, float]:
        """Predict with all features."""
        return dict(self.model.predict_proba_one(x, **kwargs))

    def _dropped(self, x: Mapping[Hashable, Any]) -> set[Hashable]:
        at_risk = sorted(x, key=repr)
        if self.targeted < 1:
            (table,) = [t for t in weight_tables(self.model) if not t.has_rows][:1]
            at_risk.sort(key=lambda k: abs(table.data.get(k, 0.0) if k in table.data else 0.0))
            at_risk = at_risk[: round(self.targeted * len(at_risk))]
        return {k for k in at_risk if self._draw(k) < self.rate}

    def _draw(self, key: Hashable) -> float:
        text = f"{self.seed}|{self._step}|{key!r}".encode()
        return int.from_bytes(blake2b(text, digest_size=7).digest(), "little") / 2**56
