"""Stored and sent messages: events, tasks, control messages, agents, tools, limits, and ``Run``, the fold of events.

No I/O and nothing imported from the rest of linestop but its errors: any program that can read JSON can reason about
a run with these modules alone.
"""
