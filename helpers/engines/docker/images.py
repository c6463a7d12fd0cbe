"""Images: our own are built from locked inputs, the others are pulled. Nothing is done twice."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import clone, commands, digests, references, site_network
from helpers.engines.docker import argv, client_config
from helpers.engines.docker.client import LABEL, DockerApi
from helpers.engines.notebook_image import REPOSITORY, NotebookImage
from helpers.errors import SettingError, TrackbedError
from helpers.gpu import wheels
from helpers.project.deployment import Deployment
from helpers.services import (
    BUCKET,
    GATEWAY,
    JUPYTER,
    MLFLOW,
    POSTGRES,
    STORE,
    STORE_SYNC,
    ProgressReporter,
    megabytes,
)
from helpers.settings import Settings

OWN = "trackbed/"
# What a finished image needs on disk, with its layers unpacked: PyTorch's wheels carry CUDA or ROCm.
SIZES = {"cpu": 3 << 30, "cuda": 10 << 30, "rocm": 24 << 30}
FOLDERS = {
    "trackbed/mlflow": "mlflow",
    REPOSITORY: "jupyter",
    "trackbed/versitygw": "versitygw",
    "trackbed/gateway": "gateway",
}
BUILDABLE = ("mlflow", "jupyter", "versitygw", "gateway")
VERSITYGW = f"trackbed/versitygw:{references.module('versitygw').rpartition('@')[2]}"
# The images that ours are built from, by build argument.
BASES = {
    "mlflow": {"BASE_IMAGE": "python"},
    "jupyter": {"BASE_IMAGE": "python"},
    "versitygw": {"BUILD_IMAGE": "golang"},
    "gateway": {"BUILD_IMAGE": "golang"},
}
BUILDX = (
    "Docker's plugin Buildx is missing",
    "install docker-buildx-plugin (Debian's and Ubuntu's own package: docker-buildx)",
)
MODULE = references.module("versitygw")
DEFAULT_VERSITYGW = references.image("versitygw").reference


@dataclass(frozen=True)
class Built:
    """An image after ``build``: ``seconds`` 0 and ``fresh`` False when nothing had changed. ``size`` in bytes."""

    name: str
    id: str
    fresh: bool
    seconds: float
    size: int
    pushed: str = ""  # its name in a registry


def name_of(service: str, settings: Settings, notebook: NotebookImage) -> str:
    """The image that `invoke build SERVICE` makes."""
    own = {
        "mlflow": settings.mlflow_image,
        "jupyter": notebook.name,
        "versitygw": VERSITYGW,
        "gateway": settings.gateway_image,
    }[service]
    if not own.startswith(OWN):
        raise TrackbedError(
            f"{service.upper()}_IMAGE is {own}, which is not built here",
            f"remove {service.upper()}_IMAGE to build our own",
        )
    return own


def by_service(deployment: Deployment, notebook: NotebookImage) -> dict[str, str]:
    """The reference of the image that each service's container is made from."""
    settings, store = deployment.settings, deployment.object_store
    images = {
        MLFLOW: settings.mlflow_image,
        JUPYTER: notebook.name,
        POSTGRES: reference("postgres", settings),
        **({STORE: reference(store, settings)} if store in ("minio", "versitygw") else {}),
        GATEWAY: settings.gateway_image,
        BUCKET: settings.mlflow_image,
        STORE_SYNC: settings.mlflow_image,
    }
    return {service: image for service, image in images.items() if service in deployment.services}


def needed(deployment: Deployment, notebook: NotebookImage) -> tuple[str, ...]:
    """The images of the services, each once."""
    return tuple(dict.fromkeys(by_service(deployment, notebook).values()))


def present(api: DockerApi, deployment: Deployment, notebook: NotebookImage) -> dict[str, dict[str, Any] | None]:
    """The image of each reference that the services are made from; None for one that is not here."""
    return {name: here(api, name) for name in needed(deployment, notebook)}


def ids(
    images: Mapping[str, Mapping[str, Any] | None], deployment: Deployment, notebook: NotebookImage
) -> dict[str, str]:
    """The id of the image that each service's container would be made from now; "" for one that is not here."""
    return {service: (images[name] or {}).get("id", "") for service, name in by_service(deployment, notebook).items()}


def reference(key: str, settings: Settings) -> str:
    """The reference of a service's image: postgres, minio or versitygw, from the mirror where there is one."""
    chosen: str = getattr(settings, f"{key}_image")
    return references.mirrored(chosen, settings.registry_mirror if chosen == references.image(key).reference else "")


def local(api: DockerApi, reference: str) -> str:
    """What containers are made from: the reference, or its name alone where only that is here.

    An image that was loaded from an archive or built here has the name and no digest of a registry.
    """
    name = references.without_digest(reference)
    return name if name != reference and api.image(reference) is None and api.image(name) is not None else reference


def here(api: DockerApi, reference: str) -> dict[str, Any] | None:
    """That image, as ``api.image`` tells of it; None where it is not here."""
    name = references.without_digest(reference)
    return api.image(reference) or (api.image(name) if name != reference else None)


def _folder(name: str) -> Path:
    return clone.ROOT / "docker" / FOLDERS[name.rpartition(":")[0]]


def inputs(name: str, settings: Settings, notebook: NotebookImage) -> str:
    """A hash of all that one of our images is built from, which its label keeps."""
    return digests.folder_digest(_folder(name), arguments(name, settings, notebook))


def arguments(name: str, settings: Settings, notebook: NotebookImage) -> dict[str, str]:
    """The build arguments of one of our images: what it is built from; the notebook's follow from the GPU."""
    repository = name.rpartition(":")[0]
    bases = {
        argument: references.mirrored(references.image(key).reference, settings.registry_mirror)
        for argument, key in BASES[FOLDERS[repository]].items()
    }
    if repository != REPOSITORY:
        return bases
    chosen = wheels.build_arguments(notebook.variant, notebook.build, settings.torch, settings.torch_index)
    return {**bases, "VARIANT": notebook.variant, **chosen}


def warn_about_disk(names: Iterable[str], notebook: NotebookImage, disk_free: int) -> str:
    """A warning when what has to be built needs more than is free; "" when it fits. ``disk_free`` in bytes."""
    needed = sum(SIZES[notebook.variant] if name == notebook.name else 2 << 30 for name in names if is_own(name))
    if not needed or needed < disk_free:
        return ""
    return (
        f"{', '.join(names)} may need {needed / 2**30:.0f} GiB, {disk_free / 2**30:.1f} GiB are free where Docker "
        "keeps its images; `docker system df` shows what could go"
    )


def stale(api: DockerApi, deployment: Deployment, notebook: NotebookImage) -> tuple[str, ...]:
    """Our images that are missing or whose inputs changed, and others that are missing."""
    return outdated(present(api, deployment, notebook), deployment.settings, notebook)


def outdated(
    images: Mapping[str, Mapping[str, Any] | None], settings: Settings, notebook: NotebookImage
) -> tuple[str, ...]:
    """The same of images that were looked at already."""
    return tuple(name for name, image in images.items() if _is_outdated(name, image, settings, notebook))


def is_stale(api: DockerApi, name: str, settings: Settings, notebook: NotebookImage) -> bool:
    """Whether an image is missing, or is ours and its inputs changed since it was built."""
    return _is_outdated(name, here(api, name), settings, notebook)


def _is_outdated(name: str, image: Mapping[str, Any] | None, settings: Settings, notebook: NotebookImage) -> bool:
    if image is None:
        return True
    return is_own(name) and image["labels"].get(f"{LABEL}.inputs") != inputs(name, settings, notebook)


def is_own(name: str) -> bool:
    return name.rpartition(":")[0] in FOLDERS


def ensure(
    api: DockerApi, deployment: Deployment, notebook: NotebookImage, progress: ProgressReporter
) -> tuple[str, ...]:
    """Build or pull every image that is missing or outdated; gives their names."""
    # pulls first: a registry that refuses is known in a second, a build takes a minute
    created, settings = sorted(stale(api, deployment, notebook), key=is_own), deployment.settings
    for place, name in enumerate(created, 1):
        begun = time.monotonic()
        progress.step(f"{place} of {len(created)}: {'building' if is_own(name) else 'pulling'} {name}")
        if is_own(name):
            _build(name, settings, notebook, progress)
        else:
            _pull_or_build(api, name, settings, notebook, progress)
        size = (here(api, name) or {}).get("size", 0)
        progress.step(
            f"{place} of {len(created)}: {name} is here, {size / 2**20:.0f} MiB in {time.monotonic() - begun:.0f} s"
        )
    return tuple(created)


def build(
    api: DockerApi, service: str, settings: Settings, notebook: NotebookImage, progress: ProgressReporter
) -> Built:
    """Build one of our images, or find that nothing changed since it was built."""
    name = name_of(service, settings, notebook)
    image = api.image(name)
    if image is not None and image["labels"].get(f"{LABEL}.inputs") == inputs(name, settings, notebook):
        return Built(name, image["id"], False, 0.0, image["size"])
    progress.step(f"building {name}")
    begun = time.monotonic()
    _build(name, settings, notebook, progress)
    image = api.image(name) or {"id": "", "size": 0}
    return Built(name, image["id"], True, time.monotonic() - begun, image["size"])


@contextmanager
def _file(text: str) -> Iterator[str]:
    """The name of a file with this text; "" for no text."""
    if not text:
        yield ""
        return
    with tempfile.NamedTemporaryFile("w", prefix="trackbed-") as file:
        file.write(text)
        file.flush()
        yield file.name


def proxies(settings: Settings) -> dict[str, str]:
    """The site's proxies, for the builds."""
    site = site_network.of_machine(settings, client_config.proxies(os.environ))
    return site.environment(site_network.inside(settings))


def secrets(name: str, settings: Settings) -> dict[str, str]:
    """What a build's environment has for its secrets: the index of PyTorch, where it asks for a login."""
    if name.rpartition(":")[0] != REPOSITORY or settings.torch == wheels.NONE:
        return {}
    return wheels.secret(settings.torch_index)


def build_command(
    name: str, settings: Settings, notebook: NotebookImage, root: str = "", bundle: str = ""
) -> list[str]:
    """The words that build one of our images; its folder is last, below ``root`` ("": the clone, as the cwd).

    ``bundle``: the file of the site's certificates. What `proxies` and `secrets` give is taken from the environment.
    """
    folder = str(Path(root, "docker", FOLDERS[name.rpartition(":")[0]]))
    chosen = arguments(name, settings, notebook)
    hidden = [f"id=torch-index,env={variable}" for variable in secrets(name, settings)]
    return argv.build(name, folder, chosen, settings.build_network, proxies(settings), bundle, hidden)


def _build(name: str, settings: Settings, notebook: NotebookImage, progress: ProgressReporter) -> None:
    if shutil.which("docker") is None:
        raise TrackbedError("the docker command is missing", "install docker-ce-cli and docker-buildx-plugin")
    made_from = inputs(name, settings, notebook)
    own = ["--progress=plain", "--provenance=false", "--label", f"{LABEL}.inputs={made_from}"]
    open_to_all(_folder(name))
    with _file(site_network.certificates(site_network.of_machine(settings, {}).bundles)) as bundle:
        *command, folder = build_command(name, settings, notebook, str(clone.ROOT), bundle)
        code, lines = commands.follow(
            [*command, *own, folder],
            progress.output,
            env={**os.environ, **proxies(settings), **secrets(name, settings)},
        )
    if code:
        if known := client_problem("\n".join(lines)):
            raise TrackbedError(f"building {name} failed: {known[0]}", known[1], tuple(lines[-4:]))
        wrong = [line for line in lines if "ERROR" in line or "error:" in line.lower()]
        index = arguments(name, settings, notebook).get("TORCH_INDEX")
        if index is not None and any("/opt/trackbed/${TORCH}" in line for line in wrong):
            raise TrackbedError(
                f"PyTorch could not be installed from {index or 'the package index'}: "
                f"{unreachable(lines) or _plain(wrong[-2:][0])}",
                "TORCH_INDEX names a mirror; TORCH=none makes a notebook without PyTorch",
                tuple(lines[-12:]),
            )
        raise TrackbedError(
            f"building {name} failed: {(wrong or lines or ['no output'])[-1]}",
            "TRACKBED_VERBOSE=1 shows the whole output; behind a proxy that opens TLS, point PIP_CERT "
            "to its CA bundle; BUILD_NETWORK=host helps where containers have no way out",
            tuple(lines[-12:]),
        )


def open_to_all(folder: Path) -> None:
    """Let everybody read what an image is made from: COPY keeps the modes of a clone made with umask 077, and no
    service in an image is root. git does not see the difference.
    """
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):  # somebody else's clone: then the build tells
            mode = path.lstat().st_mode
            expected = mode | (0o555 if stat.S_ISDIR(mode) or mode & 0o100 else 0o444)
            if expected != mode and not stat.S_ISLNK(mode):
                path.chmod(stat.S_IMODE(expected))


def client_problem(text: str) -> tuple[str, str] | None:
    """What is missing on the side of Docker's client, and the fix; None for words that tell of something else."""
    if re.search(r"'buildx' is not a docker command|unknown command: docker buildx|unknown flag: --progress", text):
        return BUILDX
    if match := re.search(r"docker-credential-[\w-]+", text):
        return credential_problem(match[0])
    return None


def credential_problem(program: str) -> tuple[str, str]:
    """A program for registries' passwords that Docker's configuration names and that is not here, and the fix."""
    file = client_config.folder(os.environ) / "config.json"
    word = program.removeprefix("docker-credential-")
    return (
        f"{file} names the credential helper {word}, and {program} is not installed or does not work",
        f'remove "credsStore": "{word}" (or its line in "credHelpers") from {file}, or install {program}',
    )


def _plain(line: str) -> str:
    """A line of BuildKit's output without its step number and time."""
    return re.sub(r"^(#\d+\s+)?(\d+\.\d+\s+)?", "", line)


def unreachable(lines: Iterable[str]) -> str:
    """Why pip reached no index, from its warnings: it ends with "no matching distribution" then. "" where it did."""
    broken = [line for line in lines if "after connection broken by" in line]
    if not broken:
        return ""
    cause = re.search(
        r"Errno -?\d+\] ([^'\")]+)|(certificate verify failed[^'\")(]*)|((?:read )?timed out)",
        broken[-1],
        re.IGNORECASE,
    )
    return "it does not answer" + (f" ({next(filter(None, cause.groups())).strip()})" if cause else "")


def push(api: DockerApi, name: str, registry: str, progress: ProgressReporter) -> str:
    """Tag one of our images for a registry and push it; gives its name there, with the digest that the registry made of
    it. TrackbedError in the registry's words."""
    if not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*", registry):
        raise SettingError(f"--registry={registry}: must be HOST[:PORT][/PATH], without https://.")
    existing = f"{registry}/{name.removeprefix(OWN)}"
    progress.step(f"pushing {existing}")
    try:
        for line in api.push(name, existing):
            progress.output(line)
    except TrackbedError as error:
        raise TrackbedError(
            f"pushing {existing} failed: {error.message}",
            f"`docker login {registry.partition('/')[0]}`, and may you write there?",
        ) from None
    digests = (api.image(existing) or {}).get("digests", ())
    repository = existing.rpartition(":")[0]
    digest = next((name.partition("@")[2] for name in digests if name.startswith(f"{repository}@")), "")
    return f"{existing}@{digest}" if digest else existing


def _pull_or_build(
    api: DockerApi, name: str, settings: Settings, notebook: NotebookImage, progress: ProgressReporter
) -> None:
    """Pull an image; VersityGW's is built from its Go module where that fails."""
    try:
        for line in api.pull(
            name,
            megabytes(progress, name),
        ):
            progress.output(line)
        return
    except TrackbedError as error:
        if name != reference("versitygw", settings) or settings.versitygw_image != DEFAULT_VERSITYGW:
            if known := client_problem(error.message):
                raise TrackbedError(f"pulling {name} failed: {known[0]}", known[1]) from None
            raise TrackbedError(f"pulling {name} failed: {error.message}", _pull_hint(name)) from None
        progress.step(f"pulling {name} failed ({error.message}): building the same release from {MODULE} (minutes)")
    if is_stale(api, VERSITYGW, settings, notebook):
        _build(VERSITYGW, settings, notebook, progress)
    api.tag(VERSITYGW, references.without_digest(name))


def _pull_hint(name: str) -> str:
    mirror = "a mirror of the registries can be named with REGISTRY_MIRROR, another image with a setting *_IMAGE"
    if re.search(r"(^|/)minio/minio(:|@|$)", name):
        return (
            "MinIO's own images are gone from their registries. The maintained fork opens the same volume: leave "
            "MINIO_IMAGE out. Or OBJECT_STORE=versitygw for a new project"
        )
    return f"is this machine online, and may it reach that registry? In .env, {mirror}"
