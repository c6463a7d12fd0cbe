"""Lint, types, unit, integration, browser: each in an isolated environment from the locks.

`nox` runs what proves a change anywhere; `nox -t full` adds the proof against the real services.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "unit"]
FULL = ["full"]  # the tag of every session that .ci/run runs, in this order
NIGHTLY = ["nightly"]  # of what takes hours, a package index or gigabytes

KUBERNETES_SHARING = ("test_sharing.py", "test_scheduled_backups.py", "test_silent_notebooks.py", "test_import.py")
KUBERNETES_FAULTS = ("test_faults.py", "test_updates.py")  # the longer tests of tests/kubernetes

LOCKS = ("requirements.txt", "requirements-dev.txt")
# what the documentation's site is made from: its pages, and the files that they link to
PAGES = ("*.md", ".env.example", "LICENSE", "docs/**/*", "docker/references.toml", "tests/environment/README.md")

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

from helpers.uv_settings import uv_settings  # noqa: E402


def install(session: nox.Session) -> None:
    """The toolkit and the tools, from the locks; also with -R where the environment was made from earlier ones."""
    session.env.update(uv_settings(os.environ))
    expected = ["--require-hashes", *(word for lock in LOCKS for word in ("-r", lock))]
    session.install(*expected, silent=True)
    made_from = Path(session.virtualenv.location, "locks.sha256")
    digest = hashlib.sha256(b"".join((ROOT / lock).read_bytes() for lock in LOCKS)).hexdigest()
    if made_from.is_file() and made_from.read_text() == digest:
        return
    python = str(Path(session.bin, "python"))
    session.run("uv", "pip", "install", "--quiet", "--python", python, *expected, silent=True)  # -R skips `install`
    made_from.write_text(digest)


def found(*patterns: str) -> list[str]:
    """The files of some patterns, relative to the repository."""
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


def results(session: nox.Session) -> str:
    """Where a session leaves its counts."""
    (ROOT / ".nox").mkdir(exist_ok=True)
    name = re.sub(r"\W+", "-", session.name).strip("-")
    return f"--junitxml={ROOT / '.nox' / f'junit-{name}.xml'}"


def chosen(session: nox.Session) -> list[int]:
    """pytest's exit codes that are well: no test found is, where the words after `--` chose among several sessions."""
    return [0, 5] if session.posargs else [0]


def suite(session: nox.Session, folder: str, *words: str, codes: Sequence[int] = (0,)) -> None:
    """Run a folder of tests in the session's environment."""
    install(session)
    session.run("pytest", f"tests/{folder}", *words, results(session), *session.posargs, success_codes=codes)


@nox.session(tags=FULL)
def lint(session: nox.Session) -> None:
    """Style, arrows between modules, Dockerfiles, YAML, shell, and that locks and .env.example are true."""
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": "."})
    session.run("yamllint", "--strict", "docker", "tests/environment", ".yamllint.yaml")
    session.run("hadolint", *found("docker/*/Dockerfile", "tests/environment/images/*/Dockerfile"))
    session.run(
        "shellcheck",
        *found(
            "tests/environment/*.sh",
            "tests/environment/images/*/*.sh",
            "tests/environment/kubernetes/*.sh",
            "docker/*/startup/*.sh",
            "docker/*/startup/*.bashrc",
            "docker/kubernetes/components/*/*.sh",
            "docker/*/image/*.sh",
            ".ci/run",
        ),
    )


@nox.session(tags=FULL)
def types(session: nox.Session) -> None:
    """mypy --strict."""
    install(session)
    session.run("mypy")


@nox.session(tags=FULL)
def docs(session: nox.Session) -> None:
    """The documentation as a site that needs no server: site/index.html. A warning is an error."""
    session.env.update(uv_settings(os.environ))
    session.install("--require-hashes", "-r", "requirements-docs.txt", silent=True)
    # Sphinx follows links to where they lead: the pages stand together as copies
    source = Path(session.create_tmp(), "source")
    shutil.rmtree(source, ignore_errors=True)
    shutil.rmtree(ROOT / "site", ignore_errors=True)  # no page stays that is there no more
    for name in found(*PAGES):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    (source / "docs" / "site" / "index.rst").rename(source / "index.rst")
    words = ("--fail-on-warning", "--keep-going", "--quiet", "--fresh-env", "--jobs=auto")
    session.run("sphinx-build", *words, "--conf-dir=docs/site", str(source), "site", *session.posargs)
    loaded = re.compile(
        r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"(?:https?:)?//|url\([\"']?(?:https?:)?//|@import"
    )
    pages = [path for ending in ("html", "css") for path in (ROOT / "site").rglob(f"*.{ending}")]
    if abroad := [str(path) for path in pages if loaded.search(path.read_text(encoding="utf-8"))]:
        session.error(f"these load something from another host: {', '.join(abroad)}")


@nox.session(allow_parallel=True, tags=FULL)
def unit(session: nox.Session) -> None:
    """Fast tests: no network, no engine."""
    suite(session, "unit")
    if not {"-s", "--sessions", "--session", "-t", "--tags"} & set(sys.argv):
        session.warn(
            "NOT RUN: the tests against the real services. nox -t full runs them all, "
            "nox -s integration the tasks on each engine (docs/development.md says what they need)"
        )


@nox.session(allow_parallel=True, tags=FULL)
@nox.parametrize("share", [nox.param(share, id=share) for share in ("embedded", "transfer", "docker")])
def integration(session: nox.Session, share: str) -> None:
    """The tasks a user types, against real services: embedded always, Docker when an engine answers."""
    suite(session, "integration", f"--share={share}", codes=chosen(session))


@nox.session(allow_parallel=True, tags=FULL)
def faults(session: nox.Session) -> None:
    """Services, disks, commands fail while clients write. TRACKBED_FAULT_ROUNDS (1) of each; prints its seed."""
    suite(session, "faults")


@nox.session(default=False, tags=NIGHTLY)
def many_faults(session: nox.Session) -> None:
    """The session faults with twenty rounds of each: hours."""
    session.env["TRACKBED_FAULT_ROUNDS"] = os.environ.get("TRACKBED_FAULT_ROUNDS", "20")
    suite(session, "faults")


@nox.session(allow_parallel=True, tags=FULL)
def security(session: nox.Session) -> None:
    """Attacks on a public project from a network namespace of its own: needs root and Docker, else skipped loudly."""
    suite(session, "security")


@nox.session(allow_parallel=True, tags=FULL)
def browser(session: nox.Session) -> None:
    """JupyterLab and MLflow in headless Chromium. Skipped loudly where there is none."""
    if not any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        if os.environ.get("TRACKBED_REQUIRE_BROWSER") == "1":
            session.error("TRACKBED_REQUIRE_BROWSER=1, but no Chromium is installed (Debian: chromium)")
        session.skip("NOT TESTED: no Chromium on this machine (Debian: apt install chromium)")
    suite(session, "browser")


@nox.session(default=False)
def pictures(session: nox.Session) -> None:
    """Take the README's pictures again, docs/images/*.png: needs Docker, Chromium and the fonts that docs name."""
    suite(session, "browser/test_lab_day.py", "--pictures")


@nox.session(allow_parallel=True, tags=FULL)
def kubernetes(session: nox.Session) -> None:
    """The tasks on a real cluster of two nodes, which it starts: needs root, Linux and Docker, else skipped loudly."""
    if os.environ.get("TRACKBED_REQUIRE_KUBERNETES") == "1":  # takes longer than a test may, where nobody built them
        session.run(str(ROOT / "tests/environment/kubernetes/binaries.sh"), external=True)
    others = (*KUBERNETES_FAULTS, "test_network_policies.py", *KUBERNETES_SHARING)
    suite(session, "kubernetes", *(f"--ignore=tests/kubernetes/{name}" for name in others), codes=chosen(session))


@nox.session(default=False, tags=NIGHTLY)
def kubernetes_policies(session: nox.Session) -> None:
    """Who reaches whom where that cluster enforces NetworkPolicies: needs root, Linux, Docker and Go modules."""
    if os.environ.get("TRACKBED_REQUIRE_KUBERNETES") == "1":
        session.run(str(ROOT / "tests/environment/kubernetes/binaries.sh"), external=True)
        session.run(str(ROOT / "tests/environment/kubernetes/binaries.sh"), "kube-router", external=True)
    suite(session, "kubernetes/test_network_policies.py")


@nox.session(default=False, tags=NIGHTLY)
def kubernetes_sharing(session: nox.Session) -> None:
    """Node ports, notebooks of one server, a database, a store, backups, silent notebooks, an import: as kubernetes."""
    first, *others = KUBERNETES_SHARING
    suite(session, f"kubernetes/{first}", *(f"tests/kubernetes/{name}" for name in others))


@nox.session(default=False, tags=NIGHTLY)
def timers(session: nox.Session) -> None:
    """A schedule of backups run by Debian's cron and by systemd as PID 1: needs root on Debian, debootstrap, Docker."""
    suite(session, "timers")


@nox.session(default=False, tags=NIGHTLY)
def prune(session: nox.Session) -> None:
    """200 backups in a folder, an encrypted one and a bucket, pruned under kill -9: needs Docker for the bucket."""
    suite(session, "prune")


@nox.session(default=False, tags=NIGHTLY)
def kubernetes_faults(session: nox.Session) -> None:
    """Faults and upgrades in that cluster while clients write: needs root, Linux, Docker, uv and a package index."""
    first, *others = KUBERNETES_FAULTS
    suite(session, f"kubernetes/{first}", *(f"tests/kubernetes/{name}" for name in others))


@nox.session(tags=FULL)
def machine(session: nox.Session) -> None:
    """Integration tests that change what every project on this machine sees, GPUs and firewall rules: alone."""
    suite(session, "integration", "--share=machine", codes=chosen(session))


@nox.session(default=False, tags=NIGHTLY)
def clients(session: nox.Session) -> None:
    """Old MLflow clients, other libraries, thousands of files, 1.2 GB, on both engines: needs a package index."""
    suite(session, "clients")


@nox.session(default=False, tags=NIGHTLY)
def imports(session: nox.Session) -> None:
    """Sources made anew by MLflow 1.30 to 3.0 and today's, imported on both engines: needs a package index."""
    install(session)
    folder = session.create_tmp()
    session.run("python", "-m", "tests.data.imports.make", folder)
    session.env.update({"TRACKBED_IMPORTS": "all", "TRACKBED_IMPORT_SOURCES": folder})
    suite(session, "imports", "tests/integration/test_import.py")


@nox.session(default=False, tags=NIGHTLY)
def namespaces(session: nox.Session) -> None:
    """A rootless engine and one with userns-remap, of the tests' own: needs root, Docker, rootlesskit, uidmap, 8 GB."""
    suite(session, "namespaces")


@nox.session(default=False, tags=NIGHTLY)
def offline(session: nox.Session) -> None:
    """A start from a bundle on an engine of the test's own, which has no network: needs root, Docker, 10 GB."""
    suite(session, "offline")


@nox.session(default=False, tags=NIGHTLY)
def pytorch(session: nox.Session) -> None:
    """PyTorch's real build for NVIDIA (3 GB), in the image and embedded: needs Docker and a package index."""
    suite(session, "pytorch")


@nox.session(default=False, tags=NIGHTLY)
def bench(session: nox.Session) -> None:
    """Ours against the usual compose file, as ratios in one run; needs a Docker engine and quiet."""
    install(session)
    session.run("python", "-m", "benchmarks.bench", *session.posargs)


@nox.session(default=False, tags=NIGHTLY)
def bench_backup(session: nox.Session) -> None:
    """Backup and restore against `pg_dump` and a plain mirror of the store, with their memory; needs root and quiet."""
    install(session)
    session.run("python", "-m", "benchmarks.backup", *session.posargs)


@nox.session(default=False, tags=NIGHTLY)
def bench_growth(session: nox.Session) -> None:
    """Pages with 10^3 runs and with 10^6 of 100 experiments, in turns in two projects: needs root, 10 GB and quiet."""
    install(session)
    words = session.posargs or ("--engine=embedded", "--experiments=100", "--runs=10000")
    session.run("python", "-m", "benchmarks.growth", *words)


@nox.session(default=False, tags=NIGHTLY)
def bench_files(session: nox.Session) -> None:
    """Lists and downloads of 10^5 artifacts, on both engines and by boto3: needs Docker, root, quiet and 2 GB."""
    install(session)
    session.run("python", "-m", "benchmarks.many_files", *session.posargs)


@nox.session(default=False, tags=NIGHTLY)
def bench_pages(session: nox.Session) -> None:
    """MLflow's pages in Chromium, with 10 runs and 10^5, in its own projects: needs root, Chromium, 4 GB, quiet."""
    install(session)
    session.run("python", "-m", "benchmarks.pages", *session.posargs)


def audited(session: nox.Session) -> list[str]:
    """The tools that look at locks, from a lock of their own; gives the locks."""
    session.env.update(uv_settings(os.environ))
    session.install("--require-hashes", "-r", "requirements-audit.txt", silent=True)
    return found("*requirements*.txt", "docker/*/*requirements.txt", "helpers/**/*requirements.txt")


@nox.session(default=False)
def references(session: nox.Session) -> None:
    """Ask every registry and index for what docker/references.toml names (needs a network)."""
    install(session)
    session.run("python", "-m", "helpers.registry")


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Known vulnerabilities in the locked requirements (asks a service on the internet)."""
    known: list[str] = []
    silent: list[str] = []
    for lock in audited(session):
        text = session.run(
            "pip-audit",
            "--require-hashes",
            "--disable-pip",
            "--progress-spinner=off",
            "--format=json",
            "-r",
            lock,
            silent=True,
            stderr=subprocess.DEVNULL,
            success_codes=[0, 1],
        )
        # without the service it ends well and says of each package that it was skipped
        packages: list[dict[str, Any]] = [{"skip_reason": "no answer"}]
        for package in json.loads(str(text))["dependencies"] if text else packages:
            silent += [lock] if "skip_reason" in package else []
            known += [
                f"{lock}: {package['name']} {package['version']}: {found['id']}, fixed in "
                f"{', '.join(found['fix_versions']) or 'no release yet'}"
                for found in package.get("vulns", ())
            ]
    if known:
        session.error("known vulnerabilities:\n" + "\n".join(sorted(set(known))))
    if silent:
        session.skip(f"NOT TESTED: no vulnerability service answers for {', '.join(dict.fromkeys(silent))}")


@nox.session(default=False)
def sbom(session: nox.Session) -> None:
    """A software bill of materials (CycloneDX) of each lock, in sbom/. Works offline."""
    (ROOT / "sbom").mkdir(exist_ok=True)
    for lock in audited(session):
        name = lock.removesuffix(".txt").replace("/", "-")
        session.run(
            "cyclonedx-py",
            "requirements",
            lock,
            "--output-reproducible",
            "--of",
            "JSON",
            "-o",
            f"sbom/{name}.cdx.json",
            silent=True,
        )


if __name__ == "__main__":
    nox.main()
