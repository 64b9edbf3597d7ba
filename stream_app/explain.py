"""Read a user's list the way a consumer does, and say why each item is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream_app.config import Settings
from stream_app.errors import EventError, TransportError
from stream_app.events import User, decode_item, decode_user
from stream_app.lists.arranging import said_in_words
from stream_app.model.release import Overlay, Release
from stream_app.recommender import Reason, Recommender
from stream_app.store import Store
from stream_app.transport import Connection, LogReader


@dataclass(frozen=True)
class Explained:
    """One place of a list.

    Attributes
    ----------
    reason
        What moved the item's score most, None where nothing is known of it.
    rule
        What rules did to it, in words; empty when nothing.
    """

    item_id: str
    score: float
    reason: Reason | None
    rule: str = ""

    @property
    def why(self) -> str:
        """Reason and rule in one line."""
        return "; ".join(text for text in (self.reason.text if self.reason else "", self.rule) if text)


async def explain_list(settings: Settings, store: Store, user_id: str) -> tuple[list[Explained], str | None]:
    """The list of a user with the reason for each item, and a remark where reasons are not to be had.

    The reasons are worked out from what is in Redis (the user's state, the release, its overlays) and from
    the topics `items` and `users`, if Kafka can be reached.
    """
    found = await store.read_list(user_id)
    if found is None:
        return [], None
    recommender = Recommender(
        k=settings.list_size, neighbours=settings.neighbours, max_items_per_user=settings.max_items_per_user
    )
    remark = None
    try:
        await _describe(settings, recommender, user_id)
    except TransportError as error:
        remark = f"reasons without item descriptions: {error}"
    version = await store.current_version()
    data = None if version is None else await store.read_release(version)
    states = await store.load_states([user_id])
    if version is not None and data is not None:
        recommender.model.load(Release.from_bytes(data), version)
        for overlay in (await store.read_overlays(version))[1]:
            recommender.model.apply(Overlay.from_bytes(overlay))
    recommender.users.load(user_id, states[0])
    return [
        Explained(
            i["item_id"], i["score"], recommender.explain(user_id, i["item_id"]), said_in_words(i, place)
        )
        for place, i in enumerate(found["items"], 1)
    ], remark


async def _describe(settings: Settings, recommender: Recommender, user_id: str) -> None:
    connection = Connection.of(settings)
    for topic in (settings.items_topic, settings.users_topic):
        reader = LogReader(connection, topic)
        try:
            await reader.start()
            while not await reader.caught_up():
                for record in await reader.poll(5_000, 0.2):
                    try:
                        if topic == settings.items_topic:
                            recommender.observe_item(decode_item(record.key, record.value))
                        else:
                            user = decode_user(record.key, record.value)
                            if isinstance(user, User) and user.user_id == user_id:
                                recommender.observe_user(user)
                    except EventError:
                        continue  # the worker has said so
        finally:
            await reader.stop()


def in_words(places: Sequence[Explained]) -> list[tuple[str, str, str]]:
    """Places of a list as text: item, score, reason."""
    return [(p.item_id, f"{p.score:.2f}", p.why) for p in places]
