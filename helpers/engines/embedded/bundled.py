"""The embedded engine's share of a bundle: the wheels of every environment that the project has."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator

from helpers import bundle_file, bundles, wheel_download
from helpers.bundles import Bundle, Packing
from helpers.engines.embedded.environments import Environments
from helpers.engines.embedded.venvs import Venv
from helpers.errors import EngineUnavailable, TrackbedError
from helpers.wheel_download import Requirements

# bytes of the wheels, about: those of every project, and PyTorch's with what it brings
PLAIN, TORCH = 400 << 20, {"cpu": 300 << 20, "cuda13": 4 << 30, "cu126": 4 << 30, "rocm7.2": 6 << 30}


def _files(venv: Venv) -> Iterator[Requirements]:
    yield Requirements(venv.lock)
    for extra in venv.extras:
        yield Requirements(extra.requirements, extra.index, extra.hashed, extra.hashed or extra.alone)


def pack(environments: Environments, interpreter: str, into: Packing) -> None:
    """Fetch the wheels and put them into a bundle, with the hashes of the locks that name them."""
    needed = [one for venv in environments.required() for one in _files(venv)]
    about = next((size for build, size in TORCH.items() if any(f"torch-{build}" in one.file.name for one in needed)), 0)
    bundles.require_room_to_pack(into, PLAIN + about, "a bundle of the embedded engine's wheels")
    wheels = wheel_download.fetch(needed, interpreter, into.scratch, into.progress)
    names = sorted(path.name for path in wheels.iterdir())
    for name in names:
        into.add(bundle_file.WHEELS + name, wheels / name)
    into.engines["embedded"] = {
        "machine": bundles.machine(),
        "locks": {bundles.lock_name(one.file): bundles.file_hash(one.file) for one in needed},
        "torch": environments.torch_build,
        "glibc": ".".join(map(str, wheel_download.least_glibc(names))),
    }


def check(environments: Environments, bundle: Bundle) -> None:
    """Raises TrackbedError where these wheels are not those that this clone needs on this machine."""
    share = bundles.share(bundle, "embedded")
    bundles.require_machine(share, bundles.machine())
    locks = share.get("locks")
    listed = locks if isinstance(locks, dict) else {}
    needed = {bundles.lock_name(one.file): one.file for venv in environments.required() for one in _files(venv)}
    if missing := sorted(needed.keys() - listed.keys()):
        raise TrackbedError(
            f"the bundle lacks the packages of {', '.join(missing)}: it was made for GPU "
            f"{bundles.said(bundle.manifest.get('gpu'))} with PyTorch {bundles.said(share.get('torch') or 'none')}, "
            f"and this project needs {environments.torch_build or 'none'}",
            "make one for it: `invoke bundle --to=FILE --gpu=...`; or start without the GPU: `invoke up --gpu=none`",
        )
    if other := sorted(name for name, path in needed.items() if listed[name] != bundles.file_hash(path)):
        raise TrackbedError(
            f"the bundle was made from other versions of {', '.join(other)}"
            f"{'; ' + bundles.other_version(bundle.manifest) if bundles.other_version(bundle.manifest) else ''}",
            "use a clone of that version here, or make the bundle again with this one",
        )
    bundle.minor()
    _check_glibc(str(share.get("glibc", "")))


def _check_glibc(least: str) -> None:
    kind, here = platform.libc_ver()
    numbers = [tuple(map(int, re.findall(r"[0-9]+", text[:20]))) for text in (least, here)]
    if kind == "glibc" and all(numbers) and numbers[0] > numbers[1]:
        raise EngineUnavailable(
            f"the bundle's wheels need glibc {bundles.said(least)}, and this machine has {here}",
            "make the bundle on a machine with the distribution of this one",
        )
