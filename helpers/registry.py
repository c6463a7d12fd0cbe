"""Ask registries and indexes for everything that docker/references.toml names.

`python -m helpers.registry` prints a line for each and ends with 1 when one is missing.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

from helpers import references
from helpers.gpu import wheels

TYPES = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
SECONDS = 30


def place(name: str) -> tuple[str, str, str]:
    """Registry host, repository and tag of an image's name."""
    path, _, tag = name.rpartition(":")
    host, _, rest = path.partition("/")
    if not rest or "." not in host:
        host, rest = "docker.io", path
    if host == "docker.io":
        return "registry-1.docker.io", rest if "/" in rest else f"library/{rest}", tag
    return host, rest, tag


def ask(url: str, headers: dict[str, str], method: str = "GET") -> tuple[bytes, dict[str, str]]:
    """Body and headers of an answer; the headers' names in lower case."""
    request = urllib.request.Request(url, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return answer.read(), {key.lower(): value for key, value in answer.headers.items()}


def token(challenge: str) -> str:
    """The bearer token that a registry's challenge asks for."""
    parameters = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    body, _ = ask(
        f"{parameters['realm']}?service={parameters.get('service', '')}&scope={parameters.get('scope', '')}", {}
    )
    data = json.loads(body)
    return str(data.get("token") or data["access_token"])


def digest(name: str, reference: str) -> str:
    """What a registry has under a tag or digest. Raises OSError when it has nothing or does not answer."""
    host, repository, _ = place(name)
    url, headers = f"https://{host}/v2/{repository}/manifests/{reference}", {"Accept": TYPES}
    try:
        _, given = ask(url, headers, "HEAD")
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise
        headers["Authorization"] = f"Bearer {token(error.headers['WWW-Authenticate'])}"
        _, given = ask(url, headers, "HEAD")
    return given.get("docker-content-digest", "")


def refresh_digests(file: Path = references.FILE) -> list[tuple[str, str]]:
    """Write the digest that each image's tag has now into the file. Gives each image's key and its problem ("")."""
    result = []
    text = file.read_text(encoding="utf-8")
    for key, image in references.images().items():
        try:
            now = digest(image.name, place(image.name)[2])
            text = text.replace(image.digest, now) if image.digest and now else text
            result.append((key, ""))
        except (OSError, KeyError, ValueError) as error:
            result.append((key, str(error)))
    file.write_text(text, encoding="utf-8")
    return result


def main() -> int:
    """Print one line for each reference; gives the exit code."""
    missing = 0
    for key, image in references.images().items():
        try:
            existing = digest(image.name, image.digest or place(image.name)[2])
            sys.stdout.write(f"ok       {key}: {image.name} {existing}\n")
        except (OSError, KeyError, ValueError) as error:
            missing += 1
            sys.stdout.write(f"MISSING  {key}: {image.reference}: {error}\n")
    for build in wheels.BUILDS:
        if index := wheels.index(build):
            try:
                ask(f"{index}/torch/", {})
                sys.stdout.write(f"ok       PyTorch {build}: {index}\n")
            except OSError as error:
                missing += 1
                sys.stdout.write(f"MISSING  PyTorch {build}: {index}: {error}\n")
    sys.stdout.write(f"{missing} missing; last seen whole on {references.last_seen()}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
