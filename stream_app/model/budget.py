"""How large the model of a process may become: everything that grows with new ids has a bound that follows
from one number, `RECS_MAX_MODEL_MB`.

    bytes of the model  ≤  FIXED + FEATURE · max_features
                         + items · (ITEM + TOKENS · TOKEN + LINKS · LINK + width · PLACE)

Each constant is what the learner, who holds most, needs for one of its kind, copies included; `python -m
benchmarks memory` holds the formula against what a process really has.
"""

from __future__ import annotations

from dataclasses import dataclass

FIXED = 25_000_000  # bytes of an empty model: room for the links of the next examples
FEATURE = 200  # bytes per weight: table at most 3/4 full, and a frozen copy while a release is on trial
ITEM = 1_750  # ids, keys, counters, measures, of the learner and of two releases and one on trial
TOKENS = 3  # distinct tokens per item, on average
TOKEN = 160
LINKS = 64  # links per item, on average
LINK = 24  # 8 in the learner, as much again that rows left behind as they grew, 8 in the trial's copy
PLACE = (
    30  # per served neighbour: 5 in each of two releases, three times in the one on trial, and on its way out
)
LEAST_ITEMS = 1_000


@dataclass(frozen=True)
class Budget:
    """What a process may number and link at most.

    Attributes
    ----------
    items
        Items that have a number.
    tokens
        Distinct tokens of all of them.
    links
        Places of the learner's co-visitation rows.

    Examples
    --------
    >>> Budget(items=1_000).links
    64000
    """

    items: int = 200_000
    tokens: int = 0
    links: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", self.tokens or TOKENS * self.items)
        object.__setattr__(self, "links", self.links or LINKS * self.items)

    @classmethod
    def of_megabytes(cls, max_mb: float, *, max_features: int, width: int) -> Budget:
        """The budget that keeps a model below `max_mb`, with so many ranker weights and neighbours per item.

        Raises
        ------
        ValueError
            If that leaves no room for `LEAST_ITEMS` items; the text says how much they need.

        Examples
        --------
        >>> Budget.of_megabytes(2_000, max_features=1_000_000, width=200).items
        181753
        """
        per_item = bytes_per_item(width)
        items = int((max_mb * 1e6 - FIXED - FEATURE * max_features) // per_item)
        if items < LEAST_ITEMS:
            need = (FIXED + FEATURE * max_features + LEAST_ITEMS * per_item) / 1e6
            raise ValueError(
                f"is too little: {max_features:,} weights and {LEAST_ITEMS:,} items need {need:.0f}"
            )
        return cls(items)


def bytes_per_item(width: int) -> int:
    """What one more item costs the learner at most, with `width` neighbours served."""
    return ITEM + TOKENS * TOKEN + LINKS * LINK + width * PLACE


BUDGET = Budget()
"""What a model gets where nobody says otherwise."""
