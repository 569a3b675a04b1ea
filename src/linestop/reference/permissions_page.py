"""``docs/permissions.md``, generated from the table of rights."""

from __future__ import annotations

from typing import Final

from linestop.bus.access.credential_permissions import rights
from linestop.bus.access.rights import CREDENTIALS

_DOCS_INTRO: Final = """\
# Who may publish and subscribe where

Generated from the table in `linestop.bus.access.rights`; do not edit. Write it again with
`python -c "from linestop.reference.permissions_page import permissions_markdown as m; print(m(), end='')"`.

- The broker refuses every right that is not listed, with an error that names subject and credential.
- No credential may publish on `live.>`: only the server republishes stored messages there.
- Every credential has its own account that imports exactly these subjects. Without that, a role could
  name another role's subject as the place for a reply, and the server's reply would be stored there.
- `LINESTOP.API` stands for JetStream's own `$JS.API` in the account of the streams. These subjects read or
  pull; only `bootstrap` creates anything, by name, and updates the consumers. No credential can change, purge or delete
  a stream, or delete a message: that takes the broker's own administrator
  ([operations](operations.md#changing-what-no-credential-may)), and in RUNS, FORKS, OUTCOMES and BLOBS the streams
  themselves refuse it.
- `client_reads_runs` (on by default) lets a client follow every run of every tenant: this is right if all clients
  are one trust domain. Switched off, a client sees outcomes and model tokens.
- One credential is one trust domain: all its users share its inbox.
- `allow_responses` is never used: acknowledgements are granted by name.
"""


def permissions_markdown() -> str:
    """Return ``docs/permissions.md``: every credential's exact list of rights."""
    lines = [_DOCS_INTRO]
    for name in CREDENTIALS:
        lines += [f"## {name}", "", "| may | subject | to |", "|---|---|---|"]
        lines += [f"| {row.action} | `{subject}` | {row.why} |" for row in rights(name) for subject in row.subjects]
        lines.append("")
    return "\n".join(lines)
