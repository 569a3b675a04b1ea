"""Requests to the outside: addresses, the guard that every request passes, and the client that sends it."""
