"""The class-folder layout: SPLIT/CLASS/FILE or CLASS/FILE, which torchvision's ImageFolder and Keras read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from helpers.errors import SettingError, TrackbedError
from helpers.plurals import counted
from helpers.suggestions import shown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FOOD11 = "food11"
FOLDERS = {FOOD11: "Food-11"}  # as FOOD11_DATA_DIR has it
SPLITS = {FOOD11: ("training", "validation", "evaluation")}
COMMON_SPLITS = frozenset(
    ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation")
)
JUNK = re.compile(r"(.*/)?(__MACOSX/.*|\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini|\.trackbed[^/]*)", re.I)
BESIDE = frozenset(("", ".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".pdf", ".html"))
NUMBERED = re.compile(r"(\d{1,4})_[^/]+")  # the name of a picture in the Food-11 release: CLASS_NUMBER.jpg
LONGEST = 255  # bytes of a name


@dataclass(frozen=True)
class Layout:
    """Where each of a source's files goes, by its name there. ``left``: files that are no part of the data."""

    targets: dict[str, str]
    left: int
    classes: int
    splits: tuple[str, ...]
    sorted: bool = False  # by the numbers in their names


def name_of(word: str) -> tuple[str, str]:
    """A data set's name and its folder. Raises SettingError."""
    if not NAME.fullmatch(word):
        raise SettingError(f"{shown(word)}: a data set's name has letters, digits, dots and dashes, as in food11.")
    if word.lower().replace("-", "") == FOOD11:
        return FOOD11, FOLDERS[FOOD11]
    return word, word


def safe(name: str) -> str:
    """A file's name below the folder of its source. Raises TrackbedError for one that leads out, or cannot be one."""
    words = [word for word in name.split("/") if word != "."]
    wrong = (
        "it is absolute" if name.startswith("/") or re.match(r"[A-Za-z]:", name) else
        "it leads out of the folder" if ".." in words else
        "it has a backslash" if "\\" in name else
        "it has control characters" if not name.isprintable() else
        "it is too long" if any(len(word.encode("utf-8", "surrogatepass")) > LONGEST for word in words) else
        "a part of it is empty" if "" in words or not words else ""
    )  # fmt: skip
    if wrong:
        raise TrackbedError(
            f"the source has a file that is refused: {shown(name)}: {wrong}", "pack the data set again without it"
        )
    return "/".join(words)


def arrange(name: str, source: str, names: Iterable[str]) -> Layout:
    """Raises TrackbedError with what was found and what was expected."""
    kept: dict[str, str] = {}
    given, left = {}, 0
    for one in names:
        if JUNK.fullmatch(one):
            left += 1
            continue
        path = safe(one)
        if path in kept:
            raise TrackbedError(f"{source} has {shown(path)} twice", "pack the data set again, each file once")
        kept[path] = one
    parents = {str(above) for path in kept for above in PurePosixPath(path).parents}
    if clash := next((path for path in kept if path in parents), ""):
        raise TrackbedError(f"{source}: {shown(clash)} is a file and a folder", "pack the data set again")
    paths = {path: path.split("/") for path in kept}
    while _wrapped(name, paths):
        paths = {path: words[1:] for path, words in paths.items()}
    required = SPLITS.get(name, ())
    tops = {words[0] for words in paths.values() if len(words) > 1}
    splits = tuple(sorted(tops)) if tops & {*required, *(top for top in tops if top.lower() in COMMON_SPLITS)} else ()
    depth = 3 if splits or required else 2
    numbered = bool(required) and _is_numbered(paths.values(), required)
    classes = set()
    for path, words in paths.items():
        if numbered and len(words) == 2 and (match := NUMBERED.fullmatch(words[1])):
            words = [words[0], f"class_{int(match[1]):02d}", words[1]]
        if len(words) == depth:
            classes.add(words[-2])
        elif len(words) > depth or PurePosixPath(words[-1]).suffix.lower() not in BESIDE:
            raise _wrong(name, source, list(paths.values()))
        given[kept[path]] = "/".join(words)
    full = {words.split("/")[0] for words in given.values() if words.count("/") == depth - 1}
    if not classes or not full.issuperset(required) or (splits and not full.issuperset(splits)):
        raise _wrong(name, source, list(paths.values()))
    return Layout(given, left, len(classes), splits, numbered)


def _wrapped(name: str, paths: dict[str, list[str]]) -> bool:
    """Whether all lies in one folder that is no split and no class, as a packed folder does."""
    tops = {words[0] for words in paths.values()}
    if len(tops) != 1 or next(iter(tops)).lower() in COMMON_SPLITS:
        return False
    inner = [words[1:] for words in paths.values()]
    return all(inner) and any(len(words) > 1 for words in inner)


def _is_numbered(paths: Iterable[list[str]], required: tuple[str, ...]) -> bool:
    """Whether the splits have pictures without class folders, which are in their names."""
    flat = [words for words in paths if words[0] in required]
    return bool(flat) and all(len(words) == 2 and NUMBERED.fullmatch(words[1]) for words in flat)


def _wrong(name: str, source: str, paths: list[list[str]]) -> TrackbedError:
    count = Counter("/".join((*words[:-1][:3], "")) or "(no folder)" for words in paths)
    listed = [f"  {shown(folder, 100)}  {counted(number, 'file')}" for folder, number in sorted(count.items())]
    splits = SPLITS.get(name)
    expected = (
        [f"{split}/CLASS/FILE" for split in splits]
        if splits
        else ["CLASS/FILE, or SPLIT/CLASS/FILE as in train/cat/1.jpg"]
    )
    split = "a folder of its split, and there into " if splits else ""
    return TrackbedError(
        f"{source} is not in the class-folder layout: nothing was added",
        f"put each file into {split}a folder named after its class, then run the same command again",
        (
            "found:",
            *(listed[:12] or ["  no file"]),
            *([f"  and {counted(len(listed) - 12, 'more folder')}"] if len(listed) > 12 else ()),
            "expected:",
            *(f"  {line}" for line in expected),
        ),
    )
