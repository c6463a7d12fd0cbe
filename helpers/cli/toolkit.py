"""Trackbed itself: its images, its versions, its locked requirements."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from helpers import bundling, console, registry, requirements_lock
from helpers.cli import completion as shell_completion
from helpers.cli import options
from helpers.engines.docker import building
from helpers.engines.kubernetes import loading, pushed
from helpers.errors import SettingError
from helpers.settings.flags import Flags
from helpers.version import versions

# the setting that names an image of ours elsewhere
SETTINGS = {
    "mlflow": "MLFLOW_IMAGE",
    "jupyter-mlflow": "JUPYTER_IMAGE",
    "versitygw": "VERSITYGW_IMAGE",
    "gateway": "GATEWAY_IMAGE",
}


def build(given: Flags, image: str, push: bool, registry: str, load: bool) -> None:
    if push != bool(registry):
        raise SettingError("--push and --registry=HOST/PATH go together")
    project = options.last_tried(given, "built")
    with console.Progress() as progress:
        behind = ("gateway",) if project.is_public else ()
        images = (image,) if image else ("mlflow", "jupyter", *behind)
        built = building.build(project, images, progress, progress.notice, registry)
        if push:
            pushed.keep(project.settings, (one.pushed for one in built))
        if load:
            loading.load(project.settings, tuple(one.name for one in built), progress)
            pushed.keep_loaded(project.settings, {one.name: one.id for one in built})
    for one in built:
        size = f"{one.size / 2**20:.0f} MiB"
        console.notice(
            f"{one.name}: built in {one.seconds:.0f} s, {size}" if one.fresh else f"{one.name}: nothing changed, {size}"
        )
        if one.pushed:
            setting = SETTINGS[one.name.split("/")[1].partition(":")[0]]
            console.notice(f"pushed; to use it on other machines, put this into .env: {setting}={one.pushed}")


def bundle(given: Flags, to: str) -> None:
    project = options.load(given)
    target = Path(to).expanduser().absolute()
    with console.Progress() as progress:
        size, sha256 = bundling.write(project, target, progress, progress.notice)
    console.value(f"{sha256}  {target}")
    console.notice(f"{size / 2**20:.0f} MiB; compare that SHA-256 on the other machine: sha256sum {target.name}")
    console.notice(f"there, in a clone of this version: sh setup.sh up --from-bundle={target.name}")


def version(format: str, json: bool) -> None:
    result = versions()
    if options.output_format(format, json, "table", "json") == "json":
        console.as_json(result)
        return
    commit = f" ({result['commit']})" if result["commit"] else ""
    console.value(
        f"Trackbed {result['trackbed']}{commit}: MLflow {result['mlflow']}, "
        f"PostgreSQL {result['postgres']}, VersityGW {result['versitygw']}"
    )


def lock(upgrade: bool) -> None:
    for path in requirements_lock.refresh(upgrade):
        console.notice(f"locked {path}")
    for key, problem in registry.refresh_digests() if upgrade else ():
        console.notice(
            f"image {key}: its digest is kept, the registry does not answer: {problem}"
            if problem
            else f"image {key}: digest refreshed"
        )
    for name, problem in requirements_lock.refresh_torch():
        console.notice(
            f"docker/jupyter/{name}: not locked, its index does not answer: {problem}"
            if problem
            else f"locked docker/jupyter/{name}"
        )


def completion(shell: str) -> None:
    shell = shell or Path(os.environ.get("SHELL", "")).name
    if not shell:
        raise SettingError("SHELL is not set, so the shell is not known.", "name it: `invoke completion bash`")
    options.choose(shell, *shell_completion.SHELLS, option="SHELL ")
    console.value(shell_completion.script(shell, os.path.abspath(sys.argv[0])), raw=True)
