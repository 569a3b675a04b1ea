"""The shell around the actors: it wakes them, folds runs, appends their decisions, and performs their starts."""
