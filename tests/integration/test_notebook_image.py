"""The notebook's image with users that it does not know, and who its runs are said to be by."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from helpers.project import access
from tests.conftest import Clone
from tests.integration import inspection
from tests.integration.workload import Lab

# what needs an account's name: getpwuid, ssh (git's way to a server), a home and caches that can be written, packages
LOOK = """
set -e
git init -q "$HOME/work/repository" && git -C "$HOME/work/repository" status >/dev/null
ssh -G git.example.org >/dev/null
mkdir -p "$HOME/.cache/torch" "$HOME/.config/x" "$HOME/work/new"
touch "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/new"
printf '#include <Python.h>\\nint main() { return 0; }' >/tmp/x.cpp
g++ -o /tmp/x "-I$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')" /tmp/x.cpp && /tmp/x
bash -lc 'command -v python pip mlflow' >&2
python - <<'.'
import getpass, json, os, pwd, subprocess
own = pwd.getpwuid(os.getuid())
print(json.dumps([subprocess.check_output("whoami", text=True).strip(), own.pw_name, own.pw_dir, getpass.getuser()]))
.
"""


@pytest.fixture(scope="module")
def image(deployments: Callable[[str], Clone]) -> str:
    return inspection.output(
        "docker", "inspect", "--format", "{{.Image}}", inspection.container(deployments("docker"), "jupyter")
    )


@pytest.mark.docker
@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("1000:100", "jovyan"),
        ("12345:100", "ann"),
        ("12345:12345", "ann"),
        ("99999", "ann"),
        ("0:0", "jovyan"),
    ],
)
def test_any_user_has_a_name_a_home_and_a_compiler(image: str, user: str, name: str) -> None:
    own = [] if user == "0:0" else ["--cap-drop=ALL", "--security-opt=no-new-privileges:true"]
    shown = inspection.run(
        "docker", "run", "--rm", "-i", f"--user={user}", *own, "-e", "LOGNAME=ann", image, "bash", "-s", stdin=LOOK
    )
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout.splitlines()[-1]) == [name, name, "/home/jovyan", "ann"]
    assert shown.stderr.split()[-3:] == [f"/opt/notebook/bin/{program}" for program in ("python", "pip", "mlflow")]


@pytest.mark.docker
def test_a_name_that_is_taken_or_odd_is_not_given_again(image: str) -> None:
    for name in ("root", "jovyan", "a:b", "x\ny", ""):
        shown = inspection.output("docker", "run", "--rm", "--user=12345:100", "-e", f"LOGNAME={name}", image, "whoami")
        assert shown == "user12345"


@pytest.mark.docker
def test_hooks_of_an_image_made_from_ours(image: str) -> None:
    hook = "echo 'export FROM_HOOK=yes' >/usr/local/bin/before-notebook.d/1.sh; exec start.sh printenv FROM_HOOK"
    assert inspection.output("docker", "run", "--rm", image, "bash", "-c", hook) == "yes"


def test_runs_are_by_who_began_the_project(deployment: Clone) -> None:
    lab = Lab(deployment.value("jupyter-url"))
    cell = "import mlflow\nwith mlflow.start_run() as run: pass\nprint(run.info.run_id)"
    run = lab.run_cells([cell]).stdout.split()[-1]
    tags = {
        tag["key"]: tag["value"]
        for tag in inspection.mlflow(deployment, f"runs/get?run_id={run}")["run"]["data"]["tags"]
    }
    assert tags["mlflow.user"] == access.person()
