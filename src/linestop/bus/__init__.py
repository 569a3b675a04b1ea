"""How it is said: the log, and everything around it.

Append, load and wake, streams, permissions, timers, blobs, shared facts, the embedded server, and the shell
that drives the roles.

Start with ``ports`` (what the shell needs), then ``shell`` (the one loop), then ``jetstream`` (how NATS
gives it). ``permissions`` is the table that says which credential may say what.
"""
