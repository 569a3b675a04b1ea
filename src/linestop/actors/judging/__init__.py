"""How the validator judges tasks, calls and answers."""
