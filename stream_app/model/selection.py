"""The k-th largest of some numbers, in compiled code."""

from __future__ import annotations

import numba as nb


@nb.njit(cache=True, nogil=True)
def kth_largest(values, k):  # type: ignore[no-untyped-def]
    """The k-th largest of `values` (1 ≤ k ≤ n), which it reorders: Hoare's selection, O(n)."""
    lo, hi, want = 0, len(values) - 1, k - 1
    while lo < hi:
        pivot = values[(lo + hi) // 2]
        i, j = lo, hi
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if want <= j:
            hi = j
        elif want >= i:
            lo = i
        else:
            break
    return values[want]
