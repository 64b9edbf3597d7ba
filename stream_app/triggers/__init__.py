"""Marketing triggers, the pure core: rules over what a user does, messages, and what became of them."""
