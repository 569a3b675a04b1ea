"""The rules of the fold, one module a subject: what an event changes in a run, or why it is ignored."""
