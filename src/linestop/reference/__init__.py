"""Documents generated from the code: events, the AsyncAPI description, JSON schemas, the phases of a run."""
