"""Docker's share of a bundle: the images of every service as an OCI layout, as `docker save` writes it."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

from helpers import bundle_file, bundles, references, url_logins
from helpers.bundles import Bundle, BundleError, Packing
from helpers.engines.docker import images
from helpers.engines.docker.client import LABEL, DockerApi
from helpers.engines.notebook_image import REPOSITORY, NotebookImage
from helpers.engines.streaming import Input, piped
from helpers.errors import TrackbedError
from helpers.plurals import counted
from helpers.project.deployment import Deployment
from helpers.services import ProgressReporter, megabytes
from helpers.settings import Settings

BLOBS = "images/blobs/sha256/"
LISTS = ("images/index.json", "images/manifest.json", "images/oci-layout")
MOST_LIST = 16 << 20  # bytes of a list of images, or of one of their manifests
SECONDS = 3600  # in which Docker unpacks what it was given
BUILT_FROM = ("REGISTRY_MIRROR", "TORCH", "TORCH_INDEX")  # settings that our images are made from


def _machine(api: DockerApi) -> str:
    """The kind of machine that runs the containers, as in "linux x86_64"."""
    info = api.info()
    return f"{info.get('OSType')} {info.get('Architecture')}"


def pack(api: DockerApi, deployment: Deployment, notebook: NotebookImage, disk_free: int, into: Packing) -> None:
    """Build or pull the images of all services, and put them into a bundle."""
    settings, progress = deployment.settings, into.progress
    stale = images.stale(api, deployment, notebook)
    if warning := images.warn_about_disk(stale, notebook, disk_free):
        progress.step(f"warning: {warning}")
    images.ensure(api, deployment, notebook, progress)
    listed = {}
    for reference in images.needed(deployment, notebook):
        name = references.without_digest(reference)
        if api.image(name) is None:
            api.tag(reference, name)  # pulled by its digest it has no name, and could not be asked for by one
        image = api.image(name)
        assert image is not None
        listed[name] = {
            "id": image["id"],
            "reference": reference,
            "size": image["size"],
            "inputs": image["labels"].get(f"{LABEL}.inputs", "") if images.is_own(name) else "",
        }
    whole = sum(one["size"] for one in listed.values())
    bundles.require_room(into.folder, whole, "a bundle of the images")
    progress.step(f"writing {counted(len(listed), 'image')}, {whole / 2**20:.0f} MiB with the layers that they share")
    with piped("docker save", ["docker", "save", *listed], dict(os.environ)) as pipe:
        _copy(pipe.out, into, whole)
        pipe.finish()
    into.engines["docker"] = {
        "machine": _machine(api),
        "images": listed,
        "settings": _built_from(settings),
    }


def _copy(stream: IO[bytes], into: Packing, whole: int) -> None:
    """The files of what `docker save` writes."""
    report, done = megabytes(into.progress, "images"), 0
    with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as archive:
        for member in archive:
            if member.isdir() or member.name == "repositories":  # the list of the format before OCI's
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None or not (member.name.startswith("blobs/sha256/") or f"images/{member.name}" in LISTS):
                raise TrackbedError(
                    f"`docker save` wrote {member.name}, which belongs to no OCI layout",
                    "Docker 25 or newer writes one: update docker-ce",
                )

            def pieces(content: IO[bytes] = content) -> Iterator[bytes]:
                nonlocal done
                while data := content.read(bundles.CHUNK):
                    done += len(data)
                    report(done, max(done, whole))
                    yield data

            into.writer.add(bundle_file.IMAGES + member.name, member.size, pieces())
    while stream.read(bundles.CHUNK):  # blocks after the archive's end
        pass


def load(
    api: DockerApi, deployment: Deployment, notebook: NotebookImage, bundle: Bundle, progress: ProgressReporter
) -> tuple[str, ...]:
    """Load the images that this project needs and the engine has not; gives their names.

    Raises TrackbedError where one is missing, or made from something else than this clone would make.
    """
    share = bundles.share(bundle, "docker")
    bundles.require_machine(share, _machine(api))
    listed = share.get("images")
    wanted = {}
    for reference in images.needed(deployment, notebook):
        if not images.is_stale(api, reference, deployment.settings, notebook):
            continue
        name = references.without_digest(reference)
        wanted[name] = _entry(listed if isinstance(listed, dict) else {}, name, notebook, bundle)
        if images.is_own(name) and wanted[name].get("inputs") != images.inputs(name, deployment.settings, notebook):
            raise _other_inputs(name, share, deployment, bundle)
    if not wanted:
        return ()
    whole = sum(bundle.entries[blob].size for blob in _blobs(bundle, wanted))
    progress.step(f"loading {counted(len(wanted), 'image')}, {whole / 2**20:.0f} MiB: {', '.join(wanted)}")
    with piped("docker load", ["docker", "load", "--quiet"], dict(os.environ)) as pipe:
        try:
            _feed(pipe.into, bundle, wanted, whole, progress)
        except BrokenPipeError:
            pass  # `finish` gives Docker's words
        pipe.finish(SECONDS)
    for name in wanted:
        if images.is_stale(api, name, deployment.settings, notebook):
            raise TrackbedError(
                f"Docker loaded the bundle, and has no {name} that this project can use",
                "make the bundle again: `invoke bundle --to=FILE`",
            )
    return tuple(wanted)


def _entry(listed: Mapping[str, Any], name: str, notebook: NotebookImage, bundle: Bundle) -> Mapping[str, Any]:
    """What the bundle says of an image. Raises TrackbedError where it has none of that name."""
    entry = listed.get(name)
    if isinstance(entry, dict):
        return entry
    repository = name.rpartition(":")[0]
    others = [one for one in listed if one.startswith(f"{repository}:")]
    if repository == REPOSITORY and name == notebook.name and others:
        raise TrackbedError(
            f"the bundle has the notebook's image for {bundles.said(others[0].rpartition(':')[2])}, made for GPU "
            f"{bundles.said(bundle.manifest.get('gpu'))}, and this machine needs {name}",
            "make one for it: `invoke bundle --to=FILE --gpu=...`; or start without the GPU: `invoke up --gpu=none`",
        )
    raise TrackbedError(
        f"the bundle has no image {name}, which this project's settings name; it has "
        f"{', '.join(map(bundles.said, listed))}",
        "take that setting out (*_IMAGE, OBJECT_STORE, PUBLIC, REGISTRY_MIRROR), or make the bundle with the same one: "
        "`invoke bundle --to=FILE` reads .env too",
    )


def _built_from(settings: Settings) -> dict[str, str]:
    """The settings that our images are made from; a login stays on the machine that has it."""
    return {name: url_logins.removed(str(getattr(settings, name.lower()))) for name in BUILT_FROM}


def _other_inputs(name: str, share: Mapping[str, Any], deployment: Deployment, bundle: Bundle) -> TrackbedError:
    """Why an image of ours in the bundle is not the one that this clone would build."""
    made = share.get("settings")
    here = _built_from(deployment.settings)
    differ = [
        f"{one}={bundles.said(made[one]) or '(empty)'} there, {one}={here[one] or '(empty)'} here"
        for one in BUILT_FROM
        if isinstance(made, dict) and one in made and made[one] != here[one]
    ]
    if differ:
        return TrackbedError(
            f"the bundle's {name} was made with other settings: {'; '.join(differ)}",
            "set the same in .env, or make the bundle again with these: `invoke bundle --to=FILE`",
        )
    other = bundles.other_version(bundle.manifest)
    return TrackbedError(
        f"the bundle's {name} was made from other files than this clone has{f': {other}' if other else ''}",
        "use a clone of that version here, or make the bundle again with this one: `invoke bundle --to=FILE`",
    )


def _json(bundle: Bundle, name: str) -> Any:
    """A small file of JSON in the bundle. Raises BundleError."""
    entry = bundle.entries.get(name)
    if entry is None or entry.size > MOST_LIST:
        raise BundleError(f"{name} is missing in it, or too large")
    try:
        return json.loads(b"".join(bundle.read(name)))
    except (ValueError, RecursionError):
        raise BundleError(f"{name} in it is damaged") from None


def _lists(bundle: Bundle, wanted: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """What Docker is told: its own list and OCI's, with the wanted images alone. A name brings no other image along."""
    own, layout = _json(bundle, LISTS[1]), _json(bundle, LISTS[0])
    try:
        names = {_canonical(name) for name in wanted}
        chosen = [
            {**one, "RepoTags": [tag for tag in one["RepoTags"] or () if _canonical(tag) in names]} for one in own
        ]
        chosen = [one for one in chosen if one["RepoTags"]]
        kept = [one for one in layout["manifests"] if one["annotations"]["io.containerd.image.name"] in names]
    except (KeyError, TypeError, AttributeError):
        raise BundleError("its list of images is damaged") from None
    if len({tag for one in chosen for tag in one["RepoTags"]}) != len(wanted) or len(kept) != len(wanted):
        raise BundleError("its list of images lacks one that its manifest names")
    return chosen, {**layout, "manifests": kept}


def _canonical(name: str) -> str:
    """An image's name with its registry, as the OCI layout has it."""
    return references.mirrored(name, f"{references.DOCKER_HUB[0]}={references.DOCKER_HUB[0]}")


def _blobs(bundle: Bundle, wanted: Mapping[str, Any]) -> list[str]:
    """The files of the wanted images. Raises BundleError where one is missing, or is not what its name says."""
    own, layout = _lists(bundle, wanted)
    found: dict[str, None] = {}
    try:
        for one in own:
            for path in (one["Config"], *one["Layers"]):
                found[f"images/{path}"] = None
        left, read = [one["digest"] for one in layout["manifests"]], set()
        while left:
            digest = left.pop()
            if digest in read:
                continue
            read.add(digest)
            name = BLOBS + digest.removeprefix("sha256:")
            found[name] = None
            inner = _json(bundle, name)
            left += [part["digest"] for part in inner.get("manifests", ())]
            for part in (*inner.get("layers", ()), *([inner["config"]] if "config" in inner else ())):
                found[BLOBS + part["digest"].removeprefix("sha256:")] = None
    except (KeyError, TypeError, AttributeError):
        raise BundleError("its list of images is damaged") from None
    for name in found:
        if name not in bundle.entries or not name.startswith(BLOBS) or bundle.hash(name) != name[len(BLOBS) :]:
            raise BundleError(f"{bundles.said(name)} is missing in it, or is not what its digest says")
    return list(found)


def _feed(
    target: Input | IO[bytes], bundle: Bundle, wanted: Mapping[str, Any], whole: int, progress: ProgressReporter
) -> None:
    """Write what `docker load` reads: the lists anew, the blobs as they are."""
    own, layout = _lists(bundle, wanted)
    report, done = megabytes(progress, "images"), 0
    for name in _blobs(bundle, wanted):
        size = bundle.entries[name].size
        target.write(bundle_file.header(name.removeprefix(bundle_file.IMAGES), size))
        for data in bundle.read(name):
            target.write(data)
            done += len(data)
            report(done, whole)
        target.write(b"\0" * bundle_file.padding(size))
    for name, content in (("manifest.json", own), ("index.json", layout), ("oci-layout", _json(bundle, LISTS[2]))):
        text = json.dumps(content).encode()
        target.write(bundle_file.header(name, len(text)) + text + b"\0" * bundle_file.padding(len(text)))
    target.write(b"\0" * 2 * bundle_file.BLOCK)
