"""What a person sees: printed lines and tables, escaped texts, the time line of a run."""
