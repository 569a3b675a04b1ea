"""Subject filters for watchers, in addition to those for the roles (``subjects``)."""

from __future__ import annotations

from linestop.schemas.subjects import RunId, TenantId, check_name

ANY = "*"
FIRST_EVENTS = "runs.*.*.*.*.1"
"""The first event of any run, from any role: a run may begin with a stop."""


def first_event_filter(tenant: str) -> str:
    """Build the filter of the first events of a tenant's runs, from any role; an empty name stands for any."""
    return f"runs.{_name('tenant', tenant)}.{ANY}.{ANY}.{ANY}.1"


def delta_filter(tenant: TenantId, run: RunId) -> str:
    """Build the filter of the model's text in a run, of every turn and attempt."""
    return f"deltas.{check_name('tenant', tenant)}.{check_name('run', run)}.{ANY}.{ANY}"


def numbered_filter(tenant: TenantId, run: RunId, n: int) -> str:
    """Build the filter of every message that claims to be event ``n`` of a run, from any role."""
    return f"runs.{check_name('tenant', tenant)}.{check_name('run', run)}.{ANY}.{ANY}.{n}"


def outcome_filter(tenant: str, agent: str) -> str:
    """Build the filter of the outcomes of a tenant's and an agent's runs; an empty name stands for any."""
    return f"outcomes.{_name('tenant', tenant)}.{_name('agent', agent)}.{ANY}"


def alert_filter(tenant: str) -> str:
    """Build the filter of the alerts about a tenant's runs; an empty name stands for any."""
    return f"alerts.{_name('tenant', tenant)}.{ANY}"


def _name(kind: str, name: str) -> str:
    return check_name(kind, name) if name else ANY
