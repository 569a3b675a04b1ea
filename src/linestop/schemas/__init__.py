"""What is said: events, tasks, control messages, agents, tools, limits, and ``Run``, the fold of events.

No I/O and no imports from the rest of linestop: any program that can read JSON can reason about a run with
these modules alone.
"""
