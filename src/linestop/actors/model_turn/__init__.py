"""One turn of the model: the prompt that the planner sends, and the events that a reply becomes."""
