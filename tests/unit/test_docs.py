"""What the pages say is there: commands and flags, settings, links; and nothing that belongs to one machine."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from invoke.exceptions import ParseError

import command_line
import noxfile
import tasks
from helpers.cli import tasks_page
from helpers.engines.base import Engine
from helpers.settings import BY_NAME, FOREIGN, PREFIX, RESERVED

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "tests" / "environment" / "README.md",
]
NAMED = [p.relative_to(ROOT).as_posix() for p in PAGES]
TASKS = command_line.known(tasks.namespace).keys()
# Names in capitals that are no settings: of the services, of Docker, of this project's identity.
OTHERS = re.compile(
    r"MLFLOW_TRACKING_(URI|USERNAME|PASSWORD|TOKEN|SERVER_CERT_PATH)|JUPYTER_URL|PIP_(CERT|INDEX_URL)|REQUESTS_CA_BUNDLE|GIT_SSL_CAINFO|NODE_EXTRA_CA_CERTS|TEST_\w+|TRACKBED_\w*|PROJECT_\w+"
    r"|CAP_[A-Z]+(_[A-Z]+)?|(CUDA|ROCR)_VISIBLE_DEVICES|NCCL_P2P_DISABLE|FOOD11_DATA_DIR|NAME|OLD|MYSQL_PWD|CHOWN_HOME|GRANT_SUDO|NOTEBOOK_ARGS|NB_\w+|UV_\w+|NOX_PARALLEL|MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"
)


def commands(text: str) -> list[list[str]]:
    """Every `invoke ...` of a page: in code blocks a line's commands, in the text what stands between backticks."""
    result = []
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in [line for block in blocks for line in block.splitlines()] + inline:
        for command in re.split(r"&&|\||;|>", line):
            words = shlex.split(command, comments=True) if "invoke" in command else []
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words and words[0] in ("invoke", ".venv/bin/invoke") and words[1:] != ["..."]:
                result.append(words[1:])
    return result


COMMANDS = sorted(
    {(page, tuple(words)) for page, path in zip(NAMED, PAGES, strict=True) for words in commands(path.read_text())}
)


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{p}: {' '.join(w)}" for p, w in COMMANDS])
def test_documented_commands_parse(page: str, words: tuple[str, ...]) -> None:
    if words in (("--list",), ("help",), ()):
        return
    if words[0] in ("--help", "help"):
        assert words[1] in (*TASKS, "TASK")
        return
    try:
        command_line.parse(words, tasks.namespace)
    except ParseError as error:
        if "required positional" not in str(error):  # the task alone, in a sentence
            raise


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 30
    assert ("README.md", ("jupyter-url",)) in COMMANDS


def test_a_wrong_command_is_noticed() -> None:
    with pytest.raises(ParseError):
        command_line.parse(["up", "--no-such-flag"], tasks.namespace)


@pytest.mark.parametrize("page", NAMED)
def test_nox_sessions_exist(page: str) -> None:
    for name in re.findall(r"nox -s ([a-z_]+)", (ROOT / page).read_text()):
        assert hasattr(noxfile, name), name


def test_the_tests_of_the_surroundings_exist() -> None:
    text = (ROOT / "docs" / "development.md").read_text()
    named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 15
    for file, test in named:
        assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"


@pytest.mark.parametrize("page", NAMED)
def test_settings_exist(page: str) -> None:
    """Every NAME=value and every `NAME` with an underscore is a setting, or known to belong to somebody else."""
    text = (ROOT / page).read_text()
    names = set(re.findall(r"\b([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\b", text)) | set(re.findall(r"\b([A-Z]{3,})=", text))
    for name in sorted(names):
        known = (
            name in BY_NAME
            or FOREIGN.fullmatch(name)
            or OTHERS.fullmatch(name)
            or any(setting.endswith(name) for setting in BY_NAME)
        )
        assert known, f"{page}: {name} is no setting"
        if name.startswith(PREFIX):
            bare = name.removeprefix(PREFIX)
            assert bare in BY_NAME or RESERVED.fullmatch(name), f"{page}: {name} is neither setting nor switch"


def slug(heading: str) -> str:
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", NAMED)
def test_links_resolve(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        existing = (path.parent / file).resolve() if file else path
        assert existing.exists(), f"{page}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", existing.read_text(), re.MULTILINE)
            assert anchor in {slug(h) for h in headings}, f"{page}: {target}"


@pytest.mark.parametrize("page", NAMED)
def test_named_files_exist(page: str) -> None:
    """Paths of this repository between backticks."""
    for name in re.findall(r"`((?:docker|helpers|tests|docs|\.ci)/[\w./-]+)`", (ROOT / page).read_text()):
        assert (ROOT / name).exists(), f"{page}: {name}"


def test_every_page_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for path in (ROOT / "docs").rglob("*.md"):
        assert f"]({path.relative_to(ROOT).as_posix()})" in text, path.name


def test_the_page_of_the_tasks_is_current() -> None:
    written = tasks_page.page(command_line.known(tasks.namespace))
    assert tasks_page.FILE.read_text() == written, "type python -m helpers.cli.tasks_page"


def test_every_page_is_in_the_sites_navigation() -> None:
    listed = set(re.findall(r"^   (\S+)$", (ROOT / "docs" / "site" / "index.rst").read_text(), re.MULTILINE))
    pages = {name.removesuffix(".md") for name in NAMED if not name.startswith("docs/adr/")}
    assert pages - listed == set(), "name it in docs/site/index.rst, where it belongs"


def test_the_module_tables_of_the_architecture_name_what_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed = {
        folder: set(re.findall(r"`(\w+\.\w+)`", "".join(re.findall(r"^\| (`.+?`) \|", rows, re.MULTILINE))))
        for folder, rows in re.findall(r"^### `([\w/]+)/`\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    }
    existing: dict[str, set[str]] = {}
    for path in (ROOT / "helpers").rglob("*.py"):
        if path.name != "__init__.py":
            existing.setdefault(path.parent.relative_to(ROOT).as_posix(), set()).add(path.name)
    server = ROOT / "docker" / "mlflow" / "trackbed_mlflow"
    existing["docker/mlflow"] = {p.name for p in (*server.glob("*.py"), *server.glob("*.sql"))} - {"__init__.py"}
    plugins = ROOT / "docker" / "jupyter" / "trackbed_notebook"
    existing["docker/jupyter/trackbed_notebook"] = {p.name for p in plugins.glob("*.py")} - {"__init__.py"}
    assert listed == existing


def test_the_engine_protocol_of_the_architecture_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = text.partition("| member | what it gives |")[2].partition("\n\n")[0]
    named = [name for cell in re.findall(r"^\| (`.+?`) \|", rows, re.MULTILINE) for name in re.findall(r"`(\w+)", cell)]
    assert len(named) > 10
    assert [name for name in named if not hasattr(Engine, name)] == []


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git clone")
    return [ROOT / name.decode() for name in done.stdout.split(b"\0") if name]


def test_no_package_registry_is_named() -> None:
    """A mirror is a matter of the machine's own pip and apt settings, never of this repository."""
    registry = re.compile(
        r"https?://[\w.@:-]*(pypi|pythonhosted|devpi|artifactory|nexus|jfrog|anaconda|npmjs|"
        r"debian\.org|ubuntu\.com|proxy\.golang)|--(extra-)?index-url|--find-links"
    )
    for path in tracked():
        if path == Path(__file__) or not path.is_file():
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        for item in registry.finditer(text):
            line = text[text.rfind("\n", 0, item.start()) + 1 : text.find("\n", item.end())]
            option = not item.group(0).startswith("http")  # whose address is told at run time
            assert option and (path.suffix in (".py", ".yaml") or path.name == "Dockerfile"), f"{path}: {line}"


def test_locks_have_hashes_and_no_addresses() -> None:
    locks = [p for p in tracked() if re.search(r"requirements(-\w+)?\.txt$", p.name)]
    assert len(locks) >= 7
    for path in locks:
        text = path.read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text and "--index-url" not in text, path
