"""River wrappers that keep a model small while it learns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from river import base, linear_model

from pruning.errors import EmptyModelError, ParameterError
from pruning.inplace import InPlaceReport, prune_model
from pruning.pruners import SaliencyPruner
from pruning.schedules import Schedule
from pruning.tables import reading_only, weight_tables


class _Pruned(base.Wrapper):  # type: ignore[misc]  # River is untyped here
    def __init__(
        self,
        model: Any,
        every: int = 1000,
        keep: int | None = None,
        schedule: Schedule | None = None,
        pruner: Callable[..., Any] = SaliencyPruner,
    ):
        if every < 1:
            raise ParameterError(f"every is {every!r}: expected at least 1 example")
        if (keep is None) == (schedule is None):
            raise ParameterError("give exactly one of keep and schedule")
        self.model = model
        self.every = every
        self.keep = keep
        self.schedule = schedule
        self.pruner = pruner
        self.reports: deque[InPlaceReport] = deque(maxlen=100)  # the latest ones
        self._step = 0
        self._begun: int | None = None  # live weights when the schedule removed its first share

    @property
    def _wrapped_model(self) -> Any:
        return self.model

    def learn_one(self, x: Mapping[Hashable, Any], y: Any, **kwargs: Any) -> None:
        """Learn, and prune when it is time."""
        self.model.learn_one(x, y, **kwargs)
        self._step += 1
        if self._step % self.every == 0:
            self._prune()

    def _prune(self) -> None:
        live = max((int(np.count_nonzero(t.values())) for t in weight_tables(self.model)), default=0)
        keep = self.keep
        if self.schedule is not None:
            share = self.schedule.share(self._step)
            if share == 0.0:
                return
            self._begun = live if self._begun is None else self._begun
            keep = round((1 - share) * self._begun)
        if keep is None or keep >= live:
            return
        try:
            self.reports.append(prune_model(self.model, self.pruner(keep=keep)))
        except EmptyModelError:
            return


class PrunedClassifier(_Pruned, base.Classifier):  # type: ignore[misc]
    """A River classifier that is pruned every so many examples, and never creates rows while predicting.

    Parameters
    ----------
    model
        Any classifier of `pruning.tables.LAYOUTS`, also in a pipeline or one-vs-rest.
    every
        Examples between two looks.
    keep
        How many weights a table may have after a look: a memory bound.
    schedule
        Or a share of the weights that were live when it began: `OneShot`, `Cubic`, `Exponential`.
    pruner
        Called with `keep=…`; `SaliencyPruner` unless told otherwise.

    Examples
    --------
    >>> from river import optim
    >>> model = PrunedClassifier(linear_model.LogisticRegression(optim.AdaGrad(.1)), every=100, keep=10)
    >>> for i in range(300):
    ...     model.learn_one({"good": i % 2, f"noise={i}": 1.0}, bool(i % 2))
    >>> len(model.model.weights), "good" in model.model.weights
    (10, True)
    """

    @classmethod
    def _unit_test_params(cls) -> Any:
        yield {"model": linear_model.LogisticRegression(), "every": 20, "keep": 5}

    def predict_proba_one(self, x: Mapping[Hashable, Any], **kwargs: Any) -> dict[Any, float]:
        """The wrapped model's probabilities; unknown features add nothing."""
        with reading_only(self.model):
            return dict(self.model.predict_proba_one(x, **kwargs))


class PrunedRegressor(_Pruned, base.Regressor):  # type: ignore[misc]
    """A River regressor that is pruned every so many examples; parameters as in `PrunedClassifier`.

    Examples
    --------
    >>> model = PrunedRegressor(linear_model.LinearRegression(), every=10, keep=1)
    >>> for i in range(20):
    ...     model.learn_one({"a": i % 3, "b": 0.01 * (i % 2)}, float(i % 3))
    >>> list(model.model.weights)
    ['a']
    """

    @classmethod
    def _unit_test_params(cls) -> Any:
        yield {"model": linear_model.LinearRegression(), "every": 20, "keep": 5}

    def predict_one(self, x: Mapping[Hashable, Any], **kwargs: Any) -> float:
        """The wrapped model's prediction; unknown features add nothing."""
        with reading_only(self.model):
            return float(self.model.predict_one(x, **kwargs))
