"""Where prose breaks on a terminal: between words, and never inside of a command."""

from __future__ import annotations

import re

# what is to be typed is one word: between backticks, or a program after a colon, up to the line's end
WORDS = re.compile(r"(?<=: )(?:cd|docker|git|kubectl|sh|sha256sum|ssh|sudo) .*|`[^`\n]*`\S*|\S+")
STEP, ITEM = "  -> ", "  - "  # what to do now, and one of a list: the indented lines that are prose


def folded(line: str, limit: int, indent: str = "") -> str:
    """A line of prose as lines of at most ``limit`` columns (0: any). A word, and a command between backticks, stay
    whole, for the clipboard: the terminal folds one that is too long. Indented lines are to be typed, and stay too."""
    mark = next((one for one in (STEP, ITEM) if line.startswith(one)), "")
    if not limit or 2 * len(line) <= limit or (line[:1].isspace() and not mark):
        return line
    from rich.cells import cell_len

    if cell_len(line) <= limit:
        return line
    first, *words = WORDS.findall(line)
    lines, indent = [line[: line.index(first)] + first], indent or " " * len(mark)
    for word in words:
        longer, row = f"{lines[-1]} {word}", (cell_len(lines[-1]) - 1) % limit + 1  # the last row of what is too long
        if row + 1 + cell_len(word) <= limit or (mark and longer == f"{mark}{word}"):
            lines[-1] = longer
        else:
            lines.append(indent + word)
    return "\n".join(lines)
