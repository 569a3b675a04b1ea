"""``docs/permissions.md``, made from the table of rights."""

from __future__ import annotations

from typing import Final

from linestop.bus.permission_table import CREDENTIALS
from linestop.bus.permissions import rights

_DOCS_INTRO: Final = """\
# Who may say and hear what

Made from the table in `linestop.bus.permission_table`; do not edit. Rewrite it with
`python -c "from linestop.reference.permissions_page import permissions_markdown as m; print(m(), end='')"`.

- What is not listed is refused by the broker, and whoever tries gets an error that names subject and
  credential.
- Nobody may publish on `live.>`: the server alone republishes there what a stream has stored.
- Every credential has an account of its own that imports exactly these subjects. Without that, a role could
  name another role's subject as the place for a reply, and the server's reply would be stored there.
- `LINESTOP.API` stands for JetStream's own `$JS.API` in the account of the streams. These subjects read or
  pull; only `bootstrap` creates anything, by name, and updates the consumers. Nobody changes, purges or deletes a
  stream, or deletes a message: that takes the broker's own administrator
  ([operations](operations.md#changing-what-no-credential-may)), and in RUNS, FORKS, OUTCOMES and BLOBS the streams
  themselves refuse it.
- `client_reads_runs` (on by default) lets a client follow every run of every tenant: right where all clients
  are one trust domain. Switched off, a client sees outcomes and model tokens.
- One credential is one trust domain: who shares it shares its inbox.
- `allow_responses` is never used: acknowledgements are granted by name.
"""


def permissions_markdown() -> str:
    """Return ``docs/permissions.md``: every credential's exact list, made from the table."""
    lines = [_DOCS_INTRO]
    for name in CREDENTIALS:
        lines += [f"## {name}", "", "| may | subject | to |", "|---|---|---|"]
        lines += [f"| {row.action} | `{subject}` | {row.why} |" for row in rights(name) for subject in row.subjects]
        lines.append("")
    return "\n".join(lines)
