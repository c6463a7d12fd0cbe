"""Which image the notebook runs: the user's own, or ours for a kind of GPU and a build of PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from helpers import references
from helpers.gpu.accelerator import VARIANT, Accelerator
from helpers.gpu.node_types import NONE
from helpers.settings import Settings

REPOSITORY = "trackbed/jupyter-mlflow"


@dataclass(frozen=True)
class NotebookImage:
    """``variant`` (cpu, cuda, rocm) and ``build`` (as in ``wheels``; "": the variant's own): what ours is made of."""

    name: str
    variant: str = VARIANT[NONE]
    build: str = ""


def choose(settings: Settings, accelerator: Accelerator) -> NotebookImage:
    """The image for this accelerator, or the one that JUPYTER_IMAGE names."""
    if not settings.jupyter_image:
        return NotebookImage(f"{REPOSITORY}:{accelerator.tag}", accelerator.variant, accelerator.torch)
    variant, _, build = (
        references.without_digest(settings.jupyter_image).rpartition(":")[2].partition("-")
    )  # ours may be named, too
    if variant not in VARIANT.values():
        return NotebookImage(settings.jupyter_image)
    return NotebookImage(settings.jupyter_image, variant, build)
