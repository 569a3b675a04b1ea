"""Makes the roles by name, and names the events that wake each role in a process of its own."""

from __future__ import annotations

from linestop.actors.approver import Approver
from linestop.actors.budget import Budget
from linestop.actors.executor import Executor
from linestop.actors.planner import Planner
from linestop.actors.recorder import Recorder
from linestop.actors.role_protocol import Role
from linestop.actors.validator import Validator
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import ConsumerSpec, consumers
from linestop.errors import InputError
from linestop.schemas.performer_interfaces import ModelRequester, ToolRunner
from linestop.schemas.run.whose_turn import NEXT_ROLES
from linestop.schemas.subjects import ROLES, RoleName, check_role, event_filter


def make_role(name: RoleName, *, requester: ModelRequester | None, runner: ToolRunner | None) -> Role:
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


def role_filters(role: Role) -> list[str]:
    """Return the subjects of the run log that wake a role in a process of its own (see ``schemas.run.whose_turn``)."""
    found: list[str] = []
    for wake in sorted(wake for wake, roles in NEXT_ROLES.items() if role.name in roles):
        source, _, event = wake.rpartition(".")
        sources: list[RoleName] = [check_role(source)] if source else list(ROLES)
        found.extend(event_filter(name, event) for name in sources)
    return found


def role_consumer_spec(role: Role) -> ConsumerSpec:
    """Return the durable consumer that wakes a role in a process of its own."""
    name = stream_names.role_consumer(role.name)
    return next(spec for spec in consumers({role.name: role_filters(role)}) if spec.name == name)
