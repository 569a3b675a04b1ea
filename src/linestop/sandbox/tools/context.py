"""The context that a tool receives besides its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from linestop.sandbox.files.workspace import Workspace
from linestop.sandbox.http.egress_client import EgressClient
from linestop.sandbox.tools.failures import StartedTooLate
from linestop.schemas.start_deadline import reason_not_to_begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One attempt of one call.

    ``key`` is the effect key: the same for every attempt of the same effect. Pass it on (an
    ``Idempotency-Key`` header, a unique column) and an attempt may be repeated. ``start_by`` is the latest
    moment the effect may begin, ``deadline`` the one at which the runtime gives up; both are aware. The
    context holds no secret: a tool reads the credentials that it needs itself.
    """

    tenant: str
    run: str
    call: str
    attempt: int
    key: str
    user: str
    start_by: datetime
    deadline: datetime
    workspace: Workspace
    http: EgressClient

    def require_fresh(self) -> None:
        """Raise if the effect may not begin any more; for effects that ``http`` does not make.

        Raises:
            StartedTooLate: if ``start_by`` has passed, or the run was stopped.
        """
        if reason := reason_not_to_begin(self.start_by):
            raise StartedTooLate(reason)
