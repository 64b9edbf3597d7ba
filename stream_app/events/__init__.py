"""Everything that comes in: events, items and users, in canonical form or a known dialect.

::

    records        what travels through the system: Event, Item, User, Tombstone
    decoding       Kafka message → Event, fast for canonical JSON; feedback
    ├── dialects   Segment, Snowplow, Google Retail, GA4, CloudEvents → canonical fields
    └── fields     checks of single values, with errors that name the field
    catalogue      messages of the topics `items` and `users`
    dead_letters   what is no valid event, on its way to the dead-letter topic and back
"""

from stream_app.events.decoding import (
    CANONICAL_TYPES,
    DEFAULT_POLICY,
    DEFAULT_WEIGHTS,
    DecodePolicy,
    Event,
    EventItem,
    Item,
    Message,
    Rejected,
    Tombstone,
    User,
    decode_event,
    decode_events,
    decode_item,
    decode_user,
    encode_event,
    encode_item,
    encode_user,
    event_from_fields,
    feedback,
    with_derived_id,
)

__all__ = [
    "CANONICAL_TYPES",
    "DEFAULT_POLICY",
    "DEFAULT_WEIGHTS",
    "DecodePolicy",
    "Event",
    "EventItem",
    "Item",
    "Message",
    "Rejected",
    "Tombstone",
    "User",
    "decode_event",
    "decode_events",
    "decode_item",
    "decode_user",
    "encode_event",
    "encode_item",
    "encode_user",
    "event_from_fields",
    "feedback",
    "with_derived_id",
]
