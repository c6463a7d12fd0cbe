"""Docker commands as lists of words, which `up` runs and `--dry-run` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from helpers.services import Network


def build(
    name: str,
    folder: str,
    arguments: Mapping[str, str],
    network: str,
    proxies: Iterable[str] = (),
    bundle: str = "",
    secrets: Iterable[str] = (),
) -> list[str]:
    """Build an image from a folder. ``network``: for its RUN steps, "default" for the builder's own.

    ``proxies``: variables, whose values Docker takes from its caller's environment. ``bundle``: a file of certificates.
    ``secrets``: where each secret of the Dockerfile comes from, as Docker writes it.
    """
    command = ["docker", "buildx", "build", "--load", *([] if network == "default" else ["--network", network])]
    command += ["--tag", name]
    for key, value in arguments.items():
        command += ["--build-arg", f"{key}={value}"]
    for variable in proxies:
        command += ["--build-arg", variable]
    if bundle:
        command += ["--secret", type(bundle)(f"id=ca,src={bundle}")]  # what a shell expands goes on being that
    for secret in secrets:
        command += ["--secret", secret]
    return [*command, folder]


def create_network(network: Network) -> list[str]:
    internal = ["--internal"] if network.internal else []
    mtu = ["--opt", f"com.docker.network.driver.mtu={network.mtu}"] if network.mtu else []
    return ["docker", "network", "create", *internal, *mtu, network.name]


def in_volume(image: str, volume: str, command: str, stdin: bool = False) -> list[str]:
    """A shell command as root over a volume at /v, without a network."""
    return [
        *("docker", "run", "--rm", *(["-i"] if stdin else []), "--user", "0", "--network", "none"),
        *("--entrypoint", "sh", "-v", f"{volume}:/v:nocopy", image, "-c", command),
    ]
