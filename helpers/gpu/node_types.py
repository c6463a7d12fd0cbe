"""The words of ``--gpu``: vendors, and the node types of a testbed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

AMD, NVIDIA, NONE, AUTO = "amd", "nvidia", "none", "auto"
TITLES = {AMD: "AMD", NVIDIA: "NVIDIA"}


@dataclass(frozen=True)
class NodeType:
    """A testbed's node type: ``models`` is a pattern for the GPU's name; ``count`` a hint, it varies within a type."""

    word: str
    node_type: str
    kind: str
    models: str
    count: str
    unsupported: str = ""


# Chameleon's GPU nodes (its reference repository of 2026-06-26).
NODE_TYPES: tuple[NodeType, ...] = (
    NodeType("mi100", "gpu_mi100", AMD, "gfx908", "2 x MI100"),
    NodeType("liqid", "compute_liqid", NVIDIA, "A100", "1 or 2 x A100 40 GB"),
    NodeType("gigaio", "compute_gigaio", NVIDIA, "A100|A30", "1 x A100 or A30, some have none"),
    NodeType("h100", "gpu_h100", NVIDIA, "H100", "4 x H100 94 GB"),
    NodeType("a100_pcie", "gpu_a100_pcie", NVIDIA, "A100", "4 x A100 80 GB"),
    NodeType("a100_nvlink", "gpu_a100_nvlink", NVIDIA, "A100", "4 x A100 80 GB"),
    NodeType("v100", "gpu_v100", NVIDIA, "V100", "4 x V100 32 GB"),
    NodeType("rtx_6000", "gpu_rtx_6000", NVIDIA, "RTX 6000", "1 x Quadro RTX 6000"),
    NodeType("p100", "gpu_p100", NVIDIA, "P100", "2 x P100"),
    NodeType("p100_nvlink", "gpu_p100_nvlink", NVIDIA, "P100", "2 or 4 x P100"),
    NodeType("p100_v100", "gpu_p100_v100", NVIDIA, "P100|V100", "2 x V100 16 GB"),
    NodeType("m40", "gpu_m40", NVIDIA, "M40", "2 x M40"),
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
BY_WORD: Mapping[str, NodeType] = {
    word: node
    for node in NODE_TYPES
    for word in {node.word, node.word.replace("_", "-"), node.node_type, node.node_type.replace("_", "-")}
}
WORDS = (AUTO, NONE, AMD, NVIDIA, *(node.word for node in NODE_TYPES if not node.unsupported))
OLD_WORDS = frozenset(("v100", "p100", "p100_nvlink", "p100_v100", "m40"))


def kind_of(word: str) -> str:
    """auto, none, amd, nvidia or intel: the vendor that a word means."""
    return BY_WORD[word].kind if word in BY_WORD else word
