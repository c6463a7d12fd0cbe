"""CDI specifications, for engines that do not list the devices that they define. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def names(folders: Iterable[str]) -> tuple[str, ...]:
    """The device names that CDI specifications in these folders define, as in nvidia.com/gpu=all.

    For engines that do not list them. Read as text: nvidia-ctk writes JSON or YAML, each name alone after its key.
    """
    texts = []
    for folder in folders:
        for path in sorted((*Path(folder).glob("*.json"), *Path(folder).glob("*.yaml"))):
            try:
                texts.append(path.read_text(errors="replace"))
            except OSError:
                continue
    return names_in(texts)


def names_in(texts: Iterable[str]) -> tuple[str, ...]:
    """The same, from the texts of the specifications."""
    result = []
    for text in texts:
        kind = re.search(r'"?kind"?\s*:\s*"?([A-Za-z0-9./_-]+)', text)
        devices = re.split(r'"?devices"?\s*:', text, maxsplit=1)
        if kind and len(devices) == 2:
            body = re.sub(r'"?(deviceNodes|hooks|mounts)"?\s*:', "", devices[1])
            result += [
                f"{kind[1]}={name}"
                for name in re.findall(r'(?:^\s*-?\s*|[{,]\s*)"?name"?\s*:\s*"?([A-Za-z0-9_.:-]+)', body, re.MULTILINE)
            ]
    return tuple(dict.fromkeys(result))
