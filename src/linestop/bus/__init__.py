"""The transport: interfaces to the broker, streams, permissions, credentials, connections and set-up.

Start with ``interfaces`` (the protocols that the shell uses), then ``jetstream`` (their implementation on NATS) and
``server`` (the embedded broker). ``access/rights`` says which credential may publish and subscribe to what.
"""
