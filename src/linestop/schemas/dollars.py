"""An amount of money as text.

There are two forms on purpose. Sentences that are stored in the log name exact amounts: a limit of $0.000012 must not
read as $0.0000. Tables, totals and questions to people have four decimals, so that amounts are easy to compare; the
sentence of a question about spending belongs to its digest, so its form cannot change.
"""

from __future__ import annotations


def dollars(micros: int) -> str:
    """Return micro-dollars as dollars: at least two decimals, and more only if necessary."""
    whole, _, rest = f"{micros / 1e6:.6f}".partition(".")
    return f"${whole}.{rest.rstrip('0').ljust(2, '0')}"


def rounded_dollars(micros: int) -> str:
    """Return micro-dollars as dollars with four decimals."""
    return f"${micros / 1e6:.4f}"
