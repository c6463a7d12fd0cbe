"""A container as `up` creates it and as `--dry-run` prints it: each property of a service is in both, or in neither."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from docker.types import ContainerConfig, HostConfig

from helpers.engines.docker import container_options, inspection
from helpers.services import DeviceRequest, Health, Mount, Port, ServiceSpec

FULL = ServiceSpec(
    name="jupyter",
    title="JupyterLab",
    command=("serve", "--all"),
    entrypoint=("tini", "--"),
    image="registry.example.org/notebook:1",
    environment={"A": "1"},
    ports=(Port("http", 8888, 18888),),
    mounts=(Mount("volume", "data", "/mnt", read_only=True, options="nocopy"),),
    networks=("p_tracking", "p_frontend"),
    container="p-jupyter",
    hostname="jupyter",
    user="1000:100",
    group_add=("44",),
    devices=("/dev/kfd",),
    device_requests=(DeviceRequest("", ("0",)),),
    ulimits={"memlock": -1},
    working_dir="/work",
    read_only=True,
    cap_drop=("ALL",),
    security_opt=("no-new-privileges:true",),
    health=Health(("true",)),
    shm_size="1g",
    memory="512m",
    pids=100,
    restart="always",
    stop_signal="SIGINT",
    stop_grace=7,
)
OTHER: dict[str, list[Any]] = {
    "command": [(), ("other",)],
    "entrypoint": [(), ("tini",), ("other", "--")],
    "image": ["other:2"],
    "environment": [{}, {"A": "2"}],
    "ports": [(), (Port("http", 9999, 18888),)],  # the published one is a variable of the script
    "mounts": [
        (),
        (Mount("volume", "data", "/mnt", options="nocopy"),),
        (Mount("volume", "data", "/mnt", read_only=True),),
        (Mount("bind", "/data", "/mnt", read_only=True, options="nocopy"),),
        (Mount("tmpfs", "", "/mnt"),),
        (Mount("tmpfs", "", "/mnt", options="size=1m"),),
    ],
    "networks": [("p_tracking",)],
    "hostname": ["other"],
    "user": ["0"],
    "group_add": [(), ("45",)],
    "devices": [(), ("/dev/dri",)],
    "device_requests": [(), (DeviceRequest("", ("all",)),), (DeviceRequest("cdi", ("nvidia.com/gpu=0",)),)],
    "ulimits": [{}, {"memlock": 1}, {"stack": -1}],
    "working_dir": ["", "/other"],
    "read_only": [False],
    "cap_drop": [(), ("NET_RAW",)],
    "security_opt": [(), ("seccomp=unconfined",)],
    "shm_size": ["", "2g"],
    "memory": ["", "1g"],
    "pids": [0, 1],
    "restart": ["no", "on-failure"],
    "stop_signal": ["", "SIGTERM"],
    "stop_grace": [8],
}
# the API has its own argument for the name and the aliases; a script waits itself
APART = {"name", "container", "health"}
# what no container has
OURS = {"title", "depends_on", "one_shot"}


def test_every_property_is_looked_at() -> None:
    assert {field.name for field in fields(ServiceSpec)} == OTHER.keys() | APART | OURS


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in OTHER.items() for value in values], ids=str
)
def test_a_property_counts_in_both(field: str, value: Any) -> None:
    changed = replace(FULL, **{field: value})
    assert container_options.argv(changed) != container_options.argv(FULL)
    assert container_options.config_and_host(changed) != container_options.config_and_host(FULL)


@pytest.mark.parametrize("field", sorted(OURS))
def test_what_no_container_has(field: str) -> None:
    other: dict[str, Any] = {"title": "x", "depends_on": {"mlflow": "started"}, "one_shot": True}
    changed = replace(FULL, **{field: other[field]})
    assert container_options.argv(changed) == container_options.argv(FULL)
    assert container_options.config_and_host(changed) == container_options.config_and_host(FULL)


def test_the_password_of_a_proxy_is_in_no_argument() -> None:
    spec = replace(FULL, environment={"HTTPS_PROXY": "http://ann:secret@proxy:3128", "HTTP_PROXY": "http://proxy:3128"})
    assert "secret" not in str(container_options.argv(spec))
    assert ["-e", "HTTPS_PROXY"] in container_options.argv(spec)
    assert container_options.passwords(spec) == {"HTTPS_PROXY": "http://ann:secret@proxy:3128"}


def inspected(spec: ServiceSpec) -> dict[str, Any]:
    """What the engine's API tells of a container that was created so."""
    config, host = container_options.config_and_host(spec)
    config.pop("start_interval", None)
    ports = {f"{port}/tcp": None for port in config.pop("ports", ())}
    made = ContainerConfig("1.45", ports=list(ports), **config)
    return {
        "Id": "f00d" * 16,
        "Name": f"/{spec.container}",
        "Config": {**made, "Env": [*(made.get("Env") or ()), "PATH=/usr/bin"]},
        "HostConfig": HostConfig("1.45", **host),
        "NetworkSettings": {"Networks": dict.fromkeys(spec.networks, {})},
    }


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in OTHER.items() for value in values], ids=str
)
def test_a_container_is_read_back_as_it_was_created(field: str, value: Any) -> None:
    spec = replace(FULL, **{field: value})
    result = inspection.read(spec.name, inspected(spec), {"Env": ["PATH=/usr/bin"]})
    assert container_options.argv(result) == container_options.argv(spec)


def test_what_a_container_has_from_its_image_is_not_repeated() -> None:
    image = {
        "Env": ["A=1", "PATH=/usr/bin"],
        "Cmd": ["serve"],
        "Entrypoint": ["tini"],
        "WorkingDir": "/work",
        "StopSignal": "SIGINT",
    }
    plain = ServiceSpec("mlflow", "MLflow", networks=("one",), image="i", working_dir="/work", stop_signal="SIGINT")
    known = inspected(replace(plain, environment={"A": "1"}, command=("serve",), entrypoint=("tini",)))
    known["Config"]["Hostname"] = known["Id"][:12]
    assert container_options.argv(inspection.read("mlflow", known, image)) == container_options.argv(
        replace(plain, working_dir="", stop_signal="")
    )
