"""The words of ``--gpu``, and what each means by itself: vendors, and the node types of a testbed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

AMD, NVIDIA, NONE, AUTO = "amd", "nvidia", "none", "auto"
TITLES = {AMD: "AMD", NVIDIA: "NVIDIA"}


@dataclass(frozen=True)
class NodeType:
    """A testbed's node type: ``models`` is a pattern for the GPU's name; ``count`` a hint, it varies within a type.

    ``old``: its GPUs are older than Turing. ``unsupported``: why it cannot be used, with what to use instead.
    """

    word: str
    node_type: str
    kind: str
    models: str
    count: str
    unsupported: str = ""
    old: bool = False

    @property
    def spellings(self) -> tuple[str, ...]:
        names = (self.word, self.node_type)
        return tuple(dict.fromkeys((*names, *(name.replace("_", "-") for name in names))))


@dataclass(frozen=True)
class GpuChoice:
    """A value of ``--gpu``: the word as it was given, its kind (auto, none or a vendor), the node type that it names.

    Settings are parsed into one, and nothing asks again what the word means. As text it is the word.
    """

    word: str
    kind: str
    node: NodeType | None = None

    @property
    def old(self) -> bool:
        """Whether the GPUs are known to need a build of PyTorch for old ones."""
        return self.node is not None and self.node.old

    @property
    def unsupported(self) -> str:
        return self.node.unsupported if self.node else ""

    def __str__(self) -> str:
        return self.word


# Chameleon's GPU nodes (its reference repository of 2026-06-26).
NODE_TYPES: tuple[NodeType, ...] = (
    NodeType("mi100", "gpu_mi100", AMD, "gfx908", "2 x MI100"),
    NodeType("liqid", "compute_liqid", NVIDIA, "A100", "1 or 2 x A100 40 GB"),
    NodeType("gigaio", "compute_gigaio", NVIDIA, "A100|A30", "1 x A100 or A30, some have none"),
    NodeType("h100", "gpu_h100", NVIDIA, "H100", "4 x H100 94 GB"),
    NodeType("a100_pcie", "gpu_a100_pcie", NVIDIA, "A100", "4 x A100 80 GB"),
    NodeType("a100_nvlink", "gpu_a100_nvlink", NVIDIA, "A100", "4 x A100 80 GB"),
    NodeType("v100", "gpu_v100", NVIDIA, "V100", "4 x V100 32 GB", old=True),
    NodeType("rtx_6000", "gpu_rtx_6000", NVIDIA, "RTX 6000", "1 x Quadro RTX 6000"),
    NodeType("p100", "gpu_p100", NVIDIA, "P100", "2 x P100", old=True),
    NodeType("p100_nvlink", "gpu_p100_nvlink", NVIDIA, "P100", "2 or 4 x P100", old=True),
    NodeType("p100_v100", "gpu_p100_v100", NVIDIA, "P100|V100", "2 x V100 16 GB", old=True),
    NodeType("m40", "gpu_m40", NVIDIA, "M40", "2 x M40", old=True),
    NodeType(
        "k80",
        "gpu_k80",
        NVIDIA,
        "K80",
        "2 x K80",
        "no current driver or PyTorch supports the K80; use --gpu=none, or another node type",
    ),
    NodeType(
        "pontevecchio",
        "gpu_pontevecchio",
        "intel",
        "Max 1550",
        "4 x Intel Max 1550",
        "Intel GPUs are not supported; use --gpu=none, or another node type",
    ),
)
SUPPORTED = tuple(node.word for node in NODE_TYPES if not node.unsupported)
CHOICES: Mapping[str, GpuChoice] = {
    **{word: GpuChoice(word, word) for word in (AUTO, NONE, AMD, NVIDIA)},
    **{word: GpuChoice(word, node.kind, node) for node in NODE_TYPES for word in node.spellings},
}
