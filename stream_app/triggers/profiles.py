"""What the shop says about users, as far as rules ask for it: consent, time zone, some attributes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from stream_app.events import Tombstone, User
from stream_app.triggers.gates import UNKNOWN, Profile

MOST_PROFILES = 1_000_000  # users whose profile is kept, those described last; about 100 bytes each
MOST_SHARED = 10_000  # profiles that users share; with more of them sharing saves little


class Profiles:
    """Profiles by user.

    Whoever was described too long ago to be kept is not known, and gets no message: there is no consent.

    Parameters
    ----------
    wanted
        Names of the attributes that rules ask for.
    most
        Users that are kept; when there are more, a sixteenth goes at once, those described first.

    Examples
    --------
    >>> profiles = Profiles(["country"], most=2)
    >>> for user_id in ("u1", "u2", "u3"):
    ...     profiles.observe(User(user_id, True, {"country": "SE", "shoe_size": 40}))
    >>> profiles.get("u3")
    Profile(consent=True, zone='', attributes={'country': 'SE'})
    >>> profiles.get("u1").consent, len(profiles), profiles.get("u2") is profiles.get("u3")
    (None, 2, True)
    """

    def __init__(self, wanted: Iterable[str], most: int = MOST_PROFILES) -> None:
        self._wanted = sorted(wanted)
        self._most = most
        self._profiles: dict[str, Profile] = {}
        self._shared: dict[Any, Profile] = {}  # millions of users share a few hundred of them

    def __len__(self) -> int:
        return len(self._profiles)

    def get(self, user_id: str) -> Profile:
        """The profile of a user, `UNKNOWN` where nothing is known."""
        return self._profiles.get(user_id, UNKNOWN)

    def observe(self, user: User | Tombstone) -> None:
        """Take over what the shop says about a user."""
        user_id = user.id if isinstance(user, Tombstone) else user.user_id
        self._profiles.pop(user_id, None)
        if isinstance(user, Tombstone):
            return
        self._profiles[user_id] = self._profile(user)  # the last one
        if len(self._profiles) > self._most:
            for old in [*islice(self._profiles, 1 + self._most // 16)]:  # one by one takes ever longer
                del self._profiles[old]

    def _profile(self, user: User) -> Profile:
        zone = user.attributes.get("time_zone")
        zone = zone if isinstance(zone, str) else ""
        values = tuple((name, _frozen(user.attributes.get(name))) for name in self._wanted)
        known = (user.marketing_consent, zone, values)
        profile = self._shared.get(known)
        if profile is None:
            if len(self._shared) >= MOST_SHARED:
                self._shared.clear()
            profile = self._shared[known] = Profile(
                user.marketing_consent, zone, {name: value for name, value in values if value is not None}
            )
        return profile


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
