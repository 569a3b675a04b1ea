"""The shell around the actors: it wakes them, folds runs, appends what they decide, performs what they start."""
