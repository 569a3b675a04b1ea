"""What may start next in a run, when, with which model, and how large it may be."""
