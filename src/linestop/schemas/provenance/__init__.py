"""The origins of a call's values: the task, a trusted result, the developer's code, or none."""
