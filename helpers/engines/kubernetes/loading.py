"""`invoke build --load`: images from this machine's Docker to the nodes of a cluster without a registry."""

from __future__ import annotations

from helpers import commands
from helpers.engines.kubernetes import target
from helpers.errors import TrackbedError
from helpers.services import ProgressReporter
from helpers.settings import Settings


def load(settings: Settings, names: tuple[str, ...], progress: ProgressReporter) -> None:
    """Bring images to every node. Raises TrackbedError where the cluster's kind has no command for that."""
    context = target.choose(settings).context
    argv = command(context, names)
    if not argv:
        raise TrackbedError(
            f"the cluster of context {context} is neither kind, k3d nor minikube: no command loads images there",
            f"as root on each of its nodes: `docker save {' '.join(names)} | ctr -n k8s.io images import -` (k3s: `k3s "
            "ctr images import -`); or push them: `invoke build --push --registry=HOST/PATH`",
        )
    progress.step(f"loading {', '.join(names)} into the nodes of context {context}")
    try:
        code, lines = commands.follow(argv, progress.output)
    except FileNotFoundError:
        raise TrackbedError(
            f"{argv[0]} is not installed, which made the cluster of context {context}", f"install {argv[0]}"
        ) from None
    if code:
        said = commands.last_line("\n".join(lines))
        raise TrackbedError(f"loading the images failed: {said}", f"`{' '.join(argv)}`", tuple(lines[-5:]))


def command(context: str, names: tuple[str, ...]) -> list[str]:
    """What loads images into the cluster of a context, whose name tells the tool that made it; [] for another."""
    tool, _, cluster = context.partition("-")
    if tool == "kind" and cluster:
        return ["kind", "load", "docker-image", *names, "--name", cluster]
    if tool == "k3d" and cluster:
        return ["k3d", "image", "import", *names, "--cluster", cluster]
    return ["minikube", "image", "load", *names] if context == "minikube" else []
