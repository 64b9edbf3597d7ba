"""Who likes what in the simulated shop: a choice model with known tastes.

User u likes item i at time t by

    affinity(u, i, t) = log p_i + τ_u(t)[category of i] + β_u[brand of i] + season(t)[category of i] − σ_u π_i

where p is a Zipf popularity, τ the taste over categories (favourites plus what age, gender and country
add), β the taste over brands, σ the sensitivity to price and π how dear the item is for its category.
With drift, τ_u(t) turns slowly from one taste to another, by a right angle in `DRIFT_DAYS`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from stream_app.events.records import Item, User

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DAY_MS = 86_400_000
DRIFT_DAYS = 8.0

_CATEGORIES = (
    "shoes", "jackets", "dresses", "shirts", "bags", "watches", "toys", "books", "games", "kitchen", "garden",
    "sports", "beauty", "audio", "phones", "cameras", "lighting", "furniture", "pets", "stationery",
)  # fmt: skip
_COUNTRIES = ("SE", "DE", "FR", "GB", "US", "PL")
_GENDERS = ("F", "M", "X")


class ChoiceModel:
    """The items and users of a shop, and how much each user likes each item.

    Parameters
    ----------
    rng
        Where everything random comes from.
    n_items, n_users, n_categories
        Sizes; there are twice as many brands as categories.
    drift
        Whether tastes turn in event time.
    start_ms
        The opening, milliseconds since 1970.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        n_items: int,
        n_users: int,
        n_categories: int,
        drift: bool,
        start_ms: int,
    ) -> None:
        self.n_items, self.n_users, self.n_categories = n_items, n_users, n_categories
        self.drift = drift
        self.start_ms = start_ms
        self._make_items(rng)
        self._make_users(rng)

    def _make_items(self, rng: np.random.Generator) -> None:
        n, c = self.n_items, self.n_categories
        self.category = np.arange(n) % c  # (n_items,): every category has items
        self.brand = rng.integers(2 * c, size=n)  # (n_items,)
        self.popularity = (rng.permutation(n) + 1.0) ** -0.8  # (n_items,)
        self.dearness = rng.standard_normal(n)  # (n_items,), π
        typical = rng.uniform(2.0, 5.5, size=c)  # log of the price
        self.price = np.round(np.exp(typical[self.category] + 0.4 * self.dearness), 2)  # (n_items,)
        self.stock = rng.geometric(1 / 40, size=n)  # (n_items,)
        late = rng.random(n) < 0.1
        launch = np.where(late, self.start_ms + rng.uniform(0, 14 * DAY_MS, size=n), 0)
        self.launch_ms = launch.astype(np.int64)  # (n_items,), 0: from the beginning
        self.season_phase = rng.uniform(0, 2 * np.pi, size=c)

    def _make_users(self, rng: np.random.Generator) -> None:
        n, c = self.n_users, self.n_categories
        self.age = np.clip(rng.normal(38, 13, size=n), 16, 80).astype(np.int64)
        self.gender = rng.choice(3, size=n, p=[0.49, 0.49, 0.02])
        self.country = rng.choice(len(_COUNTRIES), size=n, p=[0.3, 0.25, 0.15, 0.1, 0.1, 0.1])
        self.consent = rng.choice(3, size=n, p=[0.7, 0.2, 0.1])  # yes, no, never asked
        by_group = (rng.normal(0, 0.7, (5, c)), rng.normal(0, 0.7, (3, c)), rng.normal(0, 0.4, (6, c)))
        groups = (np.minimum((self.age - 16) // 13, 4), self.gender, self.country)
        common = sum(effect[group] for effect, group in zip(by_group, groups, strict=True))
        self.tastes = np.stack([_favourites(rng, n, c, 3, 3.5) + common for _ in range(2)])  # (2, n_users, c)
        self.brand_taste = _favourites(rng, n, 2 * c, 4, 2.5)  # (n_users, 2c), β
        self.price_sensitivity = rng.gamma(2.0, 0.4, size=n)  # (n_users,), σ
        activity = rng.lognormal(0, 1.0, size=n)
        self.activity = activity / activity.sum()  # (n_users,)
        # Where everybody's tastes go at a taste shift: to other categories and brands.
        self._shifted_categories = _derangement(rng, c)
        self._shifted_brands = _derangement(rng, 2 * c)

    def taste(self, users: Ints, at_ms: Ints, shifted: bool) -> Floats:
        """τ_u(t) + season(t): tastes of users (k,) over categories at times (k,): (k, n_categories)."""
        week = 2 * np.pi * (at_ms[:, None] / (7 * DAY_MS)) + self.season_phase  # (k, c)
        season: Floats = 0.4 * np.sin(week)
        days = (at_ms - self.start_ms) / DAY_MS if self.drift else np.zeros(len(users))
        angle = days / DRIFT_DAYS * math.pi / 2  # (k,)
        first, second = self.tastes[0, users], self.tastes[1, users]  # (k, c)
        taste: Floats = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
        return season + (taste[:, self._shifted_categories] if shifted else taste)

    def utilities(self, users: Ints, items: Ints, taste: Floats, shifted: bool) -> Floats:
        """Affinity without popularity, of users (k,) to their items (k, m): (k, m)."""
        brands = self._shifted_brands[self.brand[items]] if shifted else self.brand[items]
        liked = np.take_along_axis(taste, self.category[items], axis=1)
        return (
            liked
            + self.brand_taste[users[:, None], brands]
            - (self.price_sensitivity[users][:, None] * self.dearness[items])
        )

    def item(self, i: int, item_id: str, price: float, stock: int) -> Item:
        """What the shop says about item number `i`."""
        category = _CATEGORIES[self.category[i] % len(_CATEGORIES)]
        if self.n_categories > len(_CATEGORIES):
            category += f"-{self.category[i] // len(_CATEGORIES)}"
        brand = f"brand-{self.brand[i]:02d}"
        title = f"{brand.title()} {category} {i}"
        return Item(item_id, title, price, stock, categories=(category,), attributes={"brand": brand})

    def user(self, u: int, user_id: str) -> User:
        """What the shop says about user number `u`."""
        return User(
            user_id,
            (True, False, None)[self.consent[u]],
            {
                "age": int(self.age[u]),
                "gender": _GENDERS[self.gender[u]],
                "country": _COUNTRIES[self.country[u]],
            },
        )


def _favourites(rng: np.random.Generator, n: int, k: int, count: int, lift: float) -> Floats:
    """Tastes of n users over k things: a little noise, and about `count` things they like by `lift`."""
    liked = rng.random((n, k)) < min(count / k, 0.5)
    return rng.normal(0, 0.5, (n, k)) + lift * liked


def _derangement(rng: np.random.Generator, n: int) -> Ints:
    """A permutation that leaves nothing in its place (for n ≥ 2)."""
    cycle = rng.permutation(n)
    result = np.empty(n, dtype=np.int64)
    result[cycle] = np.roll(cycle, 1)
    return result
