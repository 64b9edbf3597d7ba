"""Marketing triggers: the right message, once, with the right items in it.

::

    rules          what a rule is
    ├── rules_file     read from TOML, checked, laid over `builtin.toml`
    └── conditions     comparisons that rules are made of
    memory         what is remembered of a user, packed into the user's state
    profiles       what is known of users
    shelf          what is known of items, and which change may be news
    engine         a look at a user: events, a changed item or time → decisions
    ├── matching       what a rule that matched has to say
    └── deciding       which one speaks, which waits for the end of quiet hours
        └── gates          why the others are held back
    messages       decisions as CloudEvents
    preview        what rules would have sent, on a history
    effect         what messages brought: buyers after a message beside those held out
    ├── uplift         the interval of their difference
    └── randomised     an experiment whose answer is known

All of it is pure; `stream_app.lookout` holds it against the
users of a worker, `stream_app.firing` connects it to Kafka and Redis.
"""
