"""Marketing triggers: rules over what a user does, the messages they send, and what became of them."""
