"""`invoke build`: our own images, which only Docker builds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from helpers.engines import notebook_image
from helpers.engines.docker import images
from helpers.engines.docker.engine import DockerEngine
from helpers.errors import EngineUnavailable, SettingError
from helpers.gpu import accelerator, node_types
from helpers.project.project import Project
from helpers.services import ProgressReporter
from helpers.suggestions import did_you_mean, nearest


def build(
    project: Project,
    names: tuple[str, ...],
    progress: ProgressReporter,
    notice: Callable[[str], None],
    registry: str = "",
) -> tuple[images.Built, ...]:
    """Build images for this machine's GPU or the one that was named, and push them where ``registry`` says.

    Raises EngineUnavailable where there is no Docker.
    """
    for name in names:
        if name not in images.BUILDABLE:
            guess = nearest(name, images.BUILDABLE)
            raise SettingError(
                f"image {name}: must be one of {', '.join(images.BUILDABLE)}.{did_you_mean(guess)}",
                f"`invoke build {guess}`" if guess else "`invoke build` builds them all",
            )
    engine = DockerEngine(project)
    result = engine.availability()
    if not result.usable:
        raise EngineUnavailable(f"images are built by Docker: {result.reason}", result.fix)
    gpu = project.settings.gpu
    # a named kind is built anywhere: the machine that builds need not be the one with the GPU
    chosen = engine.accelerator if gpu.kind == node_types.AUTO else accelerator.named(gpu)
    settings, notebook = project.settings, notebook_image.choose(project.settings, chosen)
    if "jupyter" in names and gpu.kind == node_types.AUTO:
        notice(f"GPU: {chosen} ({chosen.reason})")
    expected = [images.name_of(name, settings, notebook) for name in names]
    missing = [name for name in expected if images.is_stale(engine.api, name, settings, notebook)]
    if warning := images.warn_about_disk(missing, notebook, engine.host_facts().disk_free):
        notice(f"warning: {warning}")
    built = tuple(images.build(engine.api, name, settings, notebook, progress) for name in names)
    if registry:
        built = tuple(replace(one, pushed=images.push(engine.api, one.name, registry, progress)) for one in built)
    return built
