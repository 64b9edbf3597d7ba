"""The model: who is recommended what, how that is learned, and how it is released. Pure, much of it compiled.

::

    item_index · user_table            items and users by number
    retrieval · candidates             who is seen together with whom, what is moving → what is worth scoring
    features · scoring                 what a candidate looks like → its score, the best, what is logged
    examples → learning · ranker       what was logged, learned once each; the compiled River classifier
    drift                              an alarm when the model stops to fit
    release · releasing · served_model pruned, proven, handed to workers, served under overlays
"""
