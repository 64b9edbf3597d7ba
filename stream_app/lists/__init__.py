"""Lists: from scored candidates to what a reader sees. Pure.

::

    rules       business rules, as data
    arranging   the rules at work, compiled
    exploring   some places are drawn, and how likely each draw was is noted
    making      the two of them in order
    shared      lists of nobody: popular, trending, latest, similar
"""
