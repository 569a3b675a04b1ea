"""The commands, one module a group: each is one function with a parameter for each argument and option.

Imports stand inside the functions: help and completion need only click, and a command imports only what it needs.
What a command does beyond a screen of code is in the folders beside this one.
"""
