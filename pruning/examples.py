"""Logged examples, encoded: cut by time, by field and by what an artefact kept; measured test-then-learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pruning.artefact import Artefact
from pruning.errors import ParameterError
from pruning.importance import FieldImportance, Measure, field_contributions
from pruning.tokens import VALUE_BITS, encode


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Encoded, labelled examples: example i owns entries indptr[i] to indptr[i+1].

    Parameters
    ----------
    keys, values
        uint64 and float32, (nnz,).
    indptr
        int64 (n+1,).
    y
        Labels, 0 or 1, (n,).

    Examples
    --------
    >>> some = Examples.from_river([({"genre": "drama"}, True), ({"genre": "horror", "price": 2.}, False)])
    >>> len(some), some.indptr.tolist(), some.y.tolist()
    (2, [0, 1, 3], [1.0, 0.0])
    """

    keys: NDArray[np.uint64]
    values: NDArray[np.float32]
    indptr: NDArray[np.int64]
    y: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.y)

    def part(self, first: int, last: int) -> Examples:
        """Examples `first` to `last`, without the last."""
        first, last = min(first, len(self)), min(last, len(self))
        cut = slice(self.indptr[first], self.indptr[last])
        indptr = self.indptr[first : last + 1] - self.indptr[first]
        return Examples(self.keys[cut], self.values[cut], indptr, self.y[first:last])

    def without(self, fields: Collection[int]) -> Examples:
        """The same examples without the features of some fields."""
        own = self.keys >> np.uint64(VALUE_BITS)
        return self._select(~np.isin(own, np.array(sorted(fields), np.uint64)))

    def only(self, artefact: Artefact) -> Examples:
        """The same examples with the features that an artefact has kept.

        Training a fresh model on them refits what is left: weights learned beside features that are gone are
        not the best ones without them.
        """
        return self._select(artefact.lookup(self.keys) != 0)

    def _select(self, keep: NDArray[np.bool_]) -> Examples:
        ends = np.concatenate([[0], np.cumsum(keep)])[self.indptr]
        return Examples(self.keys[keep], self.values[keep], ends, self.y)

    @classmethod
    def from_river(cls, rows: Iterable[tuple[Mapping[Hashable, Any], Any]]) -> Examples:
        """Encode River's (x, y) pairs."""
        keys, values, ends, labels = [], [], [0], []
        for x, y in rows:
            k, v = encode(x)
            keys.append(k)
            values.append(v)
            ends.append(ends[-1] + len(k))
            labels.append(float(y))
        if not labels:
            raise ParameterError("there are no examples")
        return cls(np.concatenate(keys), np.concatenate(values), np.array(ends), np.array(labels, np.float32))


class EncodedLearner(Protocol):
    """A model that learns encoded batches in order, such as `stream_app.model.ranker.FTRLClassifier`.

    >>> class CoinToss:
    ...     def learn_many_encoded(self, keys, values, indptr, y):
    ...         return np.full(len(y), 0.5)
    ...     def lookup(self, keys):
    ...         return np.zeros(len(keys), np.float32)
    >>> learner: EncodedLearner = CoinToss()
    >>> some = Examples.from_river([({"genre": "drama"}, True), ({"genre": "horror"}, False)])
    >>> learner.learn_many_encoded(some.keys, some.values, some.indptr, some.y)
    array([0.5, 0.5])
    """

    def learn_many_encoded(
        self,
        keys: NDArray[np.uint64],
        values: NDArray[np.float32],
        indptr: NDArray[np.int64],
        y: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """Learn examples one after the other; the probability of each before it was learned, (n,)."""
        ...

    def lookup(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """The weights of tokens, (n,)."""
        ...


def progressive(examples: Examples, make: Callable[[], EncodedLearner], *, batch: int = 1000) -> Measure:
    """The measure `select_fields` asks for: test-then-learn on logged examples without some fields.

    Parameters
    ----------
    examples
        Logged examples in time order.
    make
        Returns an untrained model.
    batch
        Importance is measured on so many examples before they are learned.

    Returns
    -------
    A function of the fields to leave out: progressive logloss, and field → what leaving it out would cost.

    Examples
    --------
    A River model learns tokens as feature names:

    >>> from pruning import field_id
    >>> from river import linear_model
    >>> class Encoded(linear_model.LogisticRegression):
    ...     def learn_many_encoded(self, keys, values, indptr, y):
    ...         p = []
    ...         for first, last, label in zip(indptr, indptr[1:], y):
    ...             x = dict(zip(keys[first:last].tolist(), values[first:last].tolist()))
    ...             p.append(self.predict_proba_one(x)[True])
    ...             self.learn_one(x, bool(label))
    ...         return np.array(p)
    ...     def lookup(self, keys):
    ...         return np.array([self.weights.get(key, 0.0) for key in keys.tolist()], np.float32)
    >>> rows = [({"good": i % 2, "noise": i % 3 == 0}, bool(i % 2)) for i in range(300)]
    >>> measure = progressive(Examples.from_river(rows), Encoded, batch=100)
    >>> without_good, without_noise = (measure(frozenset([field_id(name)]))[0] for name in ("good", "noise"))
    >>> without_good > without_noise
    True
    """
    fields = np.unique(examples.keys >> np.uint64(VALUE_BITS))

    def measure(dropped: frozenset[int]) -> tuple[float, dict[int, float]]:
        left = examples.without(dropped)
        model, importance = make(), FieldImportance([int(f) for f in fields if int(f) not in dropped])
        total = 0.0
        for i in range(0, len(left), batch):
            part = left.part(i, i + batch)
            contributions = model.lookup(part.keys) * part.values
            importance.update(
                field_contributions(part.keys, contributions, part.indptr, importance.fields), part.y
            )
            p = model.learn_many_encoded(part.keys, part.values, part.indptr, part.y)
            total -= float(np.log(np.where(part.y > 0, p, 1 - p)).sum())
        return total / len(left), importance.leave_one_out()

    return measure
