"""Who reaches whom on the cluster: connections that are opened in the networks of pods and of nodes."""

from __future__ import annotations

import json
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.environment.kubernetes import images
from tests.integration import inspection
from tests.kubernetes import cluster

BRIDGE = "tb-kubernetes"  # tests/environment/kubernetes/common.sh
OUTSIDE = "203.0.113.7"  # of nobody's network: RFC 5737
METADATA = "169.254.169.254"
DNS = ("10.96.0.10", 53)
# Input: {NAME: [ADDRESS, PORT]}; output: the names that were reached. A name of DNS is asked as well, by UDP.
PROBE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
QUESTION = bytes.fromhex("000101000001000000000000") + b"".join(
    bytes([len(word)]) + word for word in (b"kubernetes", b"default", b"svc", b"cluster", b"local", b"")
) + bytes.fromhex("00010001")
def reached(item):
    name, (address, port) = item
    try:
        if name == "dns":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.settimeout(3)
                one.connect((address, port))
                one.send(QUESTION)
                one.recv(512)
        socket.create_connection((address, port), timeout=3).close()
        return name
    except OSError:
        return None
with ThreadPoolExecutor(32) as pool:
    print(json.dumps([name for name in pool.map(reached, json.load(sys.stdin).items()) if name]))
"""
Target = tuple[str, int]


@dataclass(frozen=True)
class Place:
    """Where connections start: the words that run a program in its network; ``own``: its address, "" of a node."""

    words: tuple[str, ...]
    own: str = ""


def of_node(node: str) -> Place:
    return Place(("nsenter", f"--net=/run/netns/tb-{node}"))


def of_pod(pod: Mapping[str, Any]) -> Place:
    """The network of a pod that runs."""
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    listed = images.Node(images.HOME / pod["spec"]["nodeName"]).output("task", "ls")
    found = re.search(rf"^{container}\s+(\d+)", listed, re.MULTILINE)
    assert found, f"no task of {cluster.name(dict(pod))}"
    return Place(("nsenter", f"--target={found[1]}", "--net"), str(pod["status"]["podIP"]))


def matrix(places: Mapping[str, Place], targets: Mapping[str, Target]) -> dict[str, set[str]]:
    """For each place the names of the targets that it reaches, itself left out."""

    def reached(place: Place) -> set[str]:
        asked = {name: target for name, target in targets.items() if target[0] != place.own}
        return set(json.loads(inspection.output(*place.words, sys.executable, "-c", PROBE, stdin=json.dumps(asked))))

    with ThreadPoolExecutor(16) as pool:
        return dict(zip(places, pool.map(reached, places.values()), strict=True))


def differences(expected: Mapping[str, set[str]], seen: Mapping[str, set[str]]) -> list[str]:
    return [
        f"{place} {word} {', '.join(sorted(names))}"
        for place in expected
        for word, names in (
            ("does not reach", expected[place] - seen[place]),
            ("reaches", seen[place] - expected[place]),
        )
        if names
    ]


class _Accepts(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextmanager
def outside(ports: Iterable[int]) -> Iterator[None]:
    """An address beyond the cluster that accepts connections."""
    inspection.run("ip", "address", "delete", f"{OUTSIDE}/32", "dev", BRIDGE)
    inspection.output("ip", "address", "add", f"{OUTSIDE}/32", "dev", BRIDGE)
    with ExitStack() as stack:
        stack.callback(inspection.output, "ip", "address", "delete", f"{OUTSIDE}/32", "dev", BRIDGE)
        for port in ports:
            server = stack.enter_context(_Accepts((OUTSIDE, port), socketserver.BaseRequestHandler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        yield


@contextmanager
def metadata_services() -> Iterator[None]:
    """What a cloud has on each of its nodes, as far as it accepts connections."""
    with ExitStack() as stack:
        for node in cluster.NODES:
            words = of_node(node).words
            address = (f"{METADATA}/32", "dev", "lo")
            inspection.run(*words, "ip", "address", "delete", *address)
            inspection.output(*words, "ip", "address", "add", *address)
            stack.callback(inspection.run, *words, "ip", "address", "delete", *address)
            server = stack.enter_context(
                subprocess.Popen(
                    [*words, sys.executable, "-m", "http.server", "80", "--bind", METADATA],
                    cwd="/run/netns",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            stack.callback(server.kill)
        yield
