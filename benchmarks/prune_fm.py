"""A compiled factorization machine, to measure pruning and rounding of latent rows at real size (B1, B5, B6).

River's own FM learns about 550 examples a second; this one has the same model and AdaGrad, and keeps the
diagonal Fisher information Σp(1−p)(∂logit/∂v)² of every entry of V beside it.
"""

from __future__ import annotations

import dataclasses

import numba as nb
import numpy as np
from numpy.typing import NDArray

from benchmarks.prune_data import Stream


@dataclasses.dataclass(frozen=True, eq=False)
class Machine:
    """A trained FM over rows 0…n−1.

    Parameters
    ----------
    keys
        Sorted tokens of the rows, uint64 (n,).
    bias
        (1,).
    w
        (n,).
    v
        (n, k).
    fisher
        Of v, (n, k).
    """

    keys: NDArray[np.uint64]
    bias: NDArray[np.float64]
    w: NDArray[np.float64]
    v: NDArray[np.float64]
    fisher: NDArray[np.float64]

    def score(self, stream: Stream, v: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Logits of a stream, (n,), with V replaced if given; unknown tokens add nothing."""
        out = np.empty(len(stream))
        _score(self.bias, self.w, self.v if v is None else v, _rows(self.keys, stream), stream.indptr, out)
        return out


def train(stream: Stream, factors: int = 8, rate: float = 0.05, l2: float = 2e-5, seed: int = 1) -> Machine:
    """One pass of AdaGrad over a stream."""
    keys = np.unique(stream.keys)
    rng = np.random.default_rng(seed)
    w, v = np.zeros(len(keys)), rng.normal(0, 0.05, (len(keys), factors))
    bias, fisher = np.zeros(1), np.zeros_like(v)
    _learn(bias, w, v, fisher, _rows(keys, stream), stream.indptr, stream.y, rate, l2)
    return Machine(keys, bias, w, v, fisher)


def _rows(keys: NDArray[np.uint64], stream: Stream) -> NDArray[np.int64]:
    at = np.minimum(np.searchsorted(keys, stream.keys), len(keys) - 1)
    return np.where(keys[at] == stream.keys, at, -1)


@nb.njit(cache=True, nogil=True)
def _learn(bias, w, v, fisher, rows, indptr, y, rate, l2):  # type: ignore[no-untyped-def]
    k = v.shape[1]
    gw, gv, gb = np.full(len(w), 1e-8), np.full(v.shape, 1e-8), 1e-8
    for i in range(len(indptr) - 1):
        own = rows[indptr[i] : indptr[i + 1]]
        total, logit = np.zeros(k), bias[0]
        for j in own:
            logit += w[j]
            for f in range(k):
                total[f] += v[j, f]
                logit -= 0.5 * v[j, f] ** 2
        logit += 0.5 * (total**2).sum()
        p = 1 / (1 + np.exp(-logit))
        error = p - y[i]
        gb += error**2
        bias[0] -= rate * error / np.sqrt(gb)
        for j in own:
            g = error + l2 * w[j]
            gw[j] += g * g
            w[j] -= rate * g / np.sqrt(gw[j])
            for f in range(k):
                d = total[f] - v[j, f]
                fisher[j, f] += p * (1 - p) * d * d
                g = error * d + l2 * v[j, f]
                gv[j, f] += g * g
                v[j, f] -= rate * g / np.sqrt(gv[j, f])


@nb.njit(cache=True, nogil=True)
def _score(bias, w, v, rows, indptr, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        total, logit = np.zeros(v.shape[1]), bias[0]
        for j in rows[indptr[i] : indptr[i + 1]]:
            if j >= 0:
                logit += w[j]
                total += v[j]
                logit -= 0.5 * (v[j] ** 2).sum()
        out[i] = logit + 0.5 * (total**2).sum()
