"""Makes the roles by name, and names the events that wake each role in a process of its own."""

from __future__ import annotations

from linestop.actors.approver import Approver
from linestop.actors.budget import Budget
from linestop.actors.executor import Executor
from linestop.actors.planner import Planner
from linestop.actors.recorder import Recorder
from linestop.actors.role_protocol import AnyRole
from linestop.actors.validator import Validator
from linestop.errors import InputError
from linestop.schemas.performer_interfaces import ModelRequester, ToolRunner
from linestop.schemas.run.next_role import NEXT_ROLES
from linestop.schemas.subjects import RoleName, check_role, event_filter, live_subject


def make_role(name: RoleName, *, requester: ModelRequester | None, runner: ToolRunner | None) -> AnyRole:
    """Return the role of that name; planner and executor get the object that performs for them."""
    match name:
        case "validator":
            return Validator()
        case "approver":
            return Approver()
        case "budget":
            return Budget()
        case "executor":
            return Executor(runner)
        case "planner":
            return Planner(requester)
        case "recorder":
            return Recorder()
        case "operator":
            raise InputError("The operator is a person; there is no such actor to run.")


def live_filters(role: RoleName) -> tuple[str, ...]:
    """Return the subjects of the events that wake a role in a process of its own (``schemas.run.next_role``)."""
    found: list[str] = []
    for wake in sorted(wake for wake, roles in NEXT_ROLES.items() if role in roles):
        source, _, event = wake.rpartition(".")
        found.append(live_subject(event_filter(check_role(source) if source else None, event)))
    return tuple(found)
