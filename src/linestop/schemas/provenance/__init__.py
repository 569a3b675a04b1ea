"""Where the values of a call come from: the task, a trusted result, the developer's code, or nowhere."""
