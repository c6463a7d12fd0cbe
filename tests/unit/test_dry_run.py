"""The printed commands: complete, without a secret, quoted for a shell."""

from __future__ import annotations

import hashlib
import re
import shlex
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from helpers import clone, cloud_metadata, dry_run, second_project, site_network
from helpers.engines import scripts
from helpers.engines.base import Health, Mount, Network, Plan, Port, SecretFile, ServiceSpec, Volume
from helpers.engines.docker import images, script
from helpers.engines.docker.client import DockerApi
from helpers.engines.docker.deployment import DockerDeployment
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.engines.notebook_image import NotebookImage
from helpers.errors import EngineUnavailable, SettingError
from helpers.project.project import Project
from helpers.project.state import make_folder, write_private
from tests.conftest import PATIENCE
from tests.unit.fakes import deployed, project

SERVER = ServiceSpec(
    name="mlflow",
    title="MLflow",
    container="lab-mlflow-1",
    hostname="mlflow",
    image="trackbed/mlflow:3.17.2",
    command=("serve", "with space", "$HOME"),
    environment={
        "A": "it's",
        "B": "x*",
        "HTTPS_PROXY": "http://ada:hunter2@proxy.example:1",
        "PIP_CERT": "/run/secrets/site-ca.pem",
    },
    ports=(Port("http", 8000, 8001, "127.0.0.1"),),
    networks=("lab_backend", "lab_frontend"),
    user="10001:10001",
    mounts=(
        Mount("volume", "lab_tmp", "/tmp", options="nocopy"),
        Mount("volume", "lab_s", "/run/secrets", True),
        Mount("tmpfs", "", "/run", options="mode=0700"),
    ),
    read_only=True,
    cap_drop=("ALL",),
    security_opt=("no-new-privileges:true",),
    restart="always",
    health=Health(("trackbed-mlflow", "health")),
    stop_grace=40,
)
NOTEBOOK = ServiceSpec(
    name="jupyter",
    title="JupyterLab",
    container="lab-jupyter",
    hostname="jupyter",
    image="j:1",
    ports=(Port("http", 8888, 8889, "127.0.0.1"),),
    networks=("lab_frontend",),
    user="1000:100",
    mounts=(Mount("bind", "/srv/my work", "/home/jovyan/work"),),
)
PLAN = Plan(
    "docker",
    "lab",
    (SERVER, NOTEBOOK),
    (Volume("lab_s", 10001, 10001, secret=True),),
    (Network("lab_backend", True, 1400), Network("lab_frontend")),
    (
        SecretFile(
            "mlflow", "lab_s", "pgpass", "*:*:*:mlflow:{POSTGRES_PASSWORD}\n100%", ("POSTGRES_PASSWORD",), 10001, 10001
        ),
    ),
)


def on_docker(project: Project) -> DockerDeployment:
    return DockerDeployment(project, cast(DockerApi, None))


@pytest.fixture
def text(tmp_path: Path) -> str:
    return script.containers(PLAN, on_docker(project(tmp_path)), NotebookImage("x:1"))


@pytest.mark.parametrize(
    "line",
    [
        "MLFLOW_PORT=8001",
        "docker network create --internal --opt com.docker.network.driver.mtu=1400 lab_backend >/dev/null",
        "docker volume create lab_s >/dev/null",
        "POSTGRES_PASSWORD=$(secret)",
        "  --read-only \\",
        "  --cap-drop ALL \\",
        "  --security-opt no-new-privileges:true \\",
        '  -p "127.0.0.1:$MLFLOW_PORT:8000" \\',
        "  -v lab_tmp:/tmp:nocopy \\",
        "  -v lab_s:/run/secrets:ro \\",
        "  --tmpfs /run:mode=0700 \\",
        "  -e 'A=it'\"'\"'s' \\",
        "  -e HTTPS_PROXY \\",
        "  trackbed/mlflow:3.17.2 serve 'with space' '$HOME' >/dev/null",
        "docker network connect --alias mlflow lab_backend lab-mlflow-1",
        "await lab-mlflow-1 trackbed-mlflow health",
        "# docker rm -f lab-jupyter lab-mlflow-1",
        "# docker volume rm lab_s",
    ],
)
def test_has_the_line(text: str, line: str) -> None:
    assert line in text.splitlines()


def test_no_password_of_a_proxy_and_no_file_that_is_not_made(text: str) -> None:
    assert "hunter2" not in text and "site-ca.pem" not in text


def test_is_bash(text: str) -> None:
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""


def test_the_secret_file_is_what_the_template_says(tmp_path: Path) -> None:
    command = scripts.printf(PLAN.secrets[0])
    done = subprocess.run(["bash", "-c", f"POSTGRES_PASSWORD=abc; {command}"], capture_output=True, text=True)
    assert done.stdout == "*:*:*:mlflow:abc\n100%"


def test_a_workspace_with_a_space_is_one_word(text: str) -> None:
    assert "  -v '/srv/my work:/home/jovyan/work' \\" in text.splitlines()


def test_another_prefix_takes_other_ports(tmp_path: Path) -> None:
    created = project(tmp_path)
    settings, other = created.settings, second_project.beside(created, "lab")
    old = {getattr(settings, name) for name in second_project.PORTS}
    new = {getattr(other, name) for name in second_project.PORTS}
    assert other.project == "lab"
    assert len(new) == 4 and not new & old
    assert other.workspace != settings.workspace


def test_another_prefix_needs_no_other_keys_of_an_external_store(tmp_path: Path) -> None:
    first = project(tmp_path)
    for name in ("EXTERNAL_S3_ACCESS_KEY", "EXTERNAL_S3_SECRET_KEY"):
        write_private(make_folder(first.settings.folder / "secrets") / name, b"kept")
    first.state.remembered = {"OBJECT_STORE": "external", "S3_ENDPOINT": "https://s3.example.org"}
    first.state.save()
    created = project(tmp_path)
    other = second_project.beside(created, "lab")
    assert (other.project, other.object_store, other.s3_access_key) == ("lab", "external", "")
    with pytest.raises(SettingError, match="S3_ACCESS_KEY is missing"):
        project(tmp_path, project="lab", object_store="external", s3_endpoint="https://s3.example.org")


@pytest.mark.parametrize("prefix", ["Lab", "-x", "a b", "x" * 41, "a/b"])
def test_a_prefix_that_is_no_name(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(SettingError, match="--name-prefix"):
        dry_run.script(project(tmp_path), prefix)


def test_keys_of_an_external_store_are_asked_for(tmp_path: Path) -> None:
    external = deployed(project(tmp_path).settings, "external")
    lines = scripts.values((SecretFile("mlflow", "v", "f", "{S3_SECRET_KEY}", ("S3_SECRET_KEY",), 1, 1),), external)
    assert lines == [': "${S3_SECRET_KEY:?export the key of your object store first}"']


@pytest.mark.parametrize("password", ["", "ann:secret@"])
def test_a_build_goes_out_as_ups_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    """Through the site's proxy, and trusting its certificates: the script builds what `up` would."""
    own = tmp_path / "site ca.pem"
    own.write_text(
        "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
        "-----BEGIN CERTIFICATE-----\nc2l0ZQ==\n-----END CERTIFICATE-----"
    )
    proxy = f"http://{password}proxy.example.org:3128"
    for name in (*site_network.PROXIES, *site_network.TRUST, site_network.EXCEPT):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setenv("PIP_CERT", str(own))
    name = "trackbed/jupyter-mlflow:cpu"
    plan = replace(PLAN, services=(SERVER, replace(NOTEBOOK, image=name)))
    deployment = on_docker(project(tmp_path))
    text = script.containers(plan, deployment, NotebookImage(name))
    line = next(
        line for line in text.replace("\\\n", "").splitlines() if line.startswith(f"docker image inspect {name}")
    )
    words = shlex.split(line.partition("|| ")[2])
    assert words[words.index("HTTPS_PROXY") - 1] == "--build-arg" and "id=ca,src=$CA" in words
    exported = re.findall("^(export HTTPS_PROXY=.*|: .*HTTPS_PROXY.*)$", text, re.MULTILINE)
    assert exported == ([': "${HTTPS_PROXY:?export it first}"'] if password else [f"export HTTPS_PROXY={proxy}"])
    assert "secret@" not in text
    bundle = subprocess.run(
        ["bash", "-c", re.findall("^(CA=.*)$", text, re.MULTILINE)[0] + '\ncat "$CA"; rm "$CA"'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert text.count('rm -f "$CA"') == 1 and text.index('rm -f "$CA"') > text.index("docker image inspect")
    assert "c2VjcmV0" not in bundle and "----------" not in bundle, "certificates alone, each on lines of its own"
    assert ssl.create_default_context(
        cadata=re.sub("(?s)-----BEGIN CERTIFICATE-----\nc2l0.*?-----END.*?-----", "", bundle)
    )
    assert "c2l0ZQ==" in bundle and len(bundle) > site_network.COMPLETE, "the public authorities as well"
    assert words[:-1] == [
        word.replace("/nowhere", "$CA")
        for word in images.build_command(name, deployment.settings, NotebookImage(name), bundle="/nowhere")[:-1]
    ]


def test_behind_a_gateway_the_links_are_its_own_and_there_is_a_login(tmp_path: Path) -> None:
    gateway = ServiceSpec(
        name="gateway",
        title="gateway",
        container="lab-gateway-1",
        hostname="gateway",
        image="g:1",
        ports=(Port("http", 8000, 8001, "0.0.0.0"), Port("jupyter", 8888, 8889, "0.0.0.0")),
        networks=("lab_frontend",),
        mounts=(Mount("volume", "lab_g", "/run/secrets", True),),
    )
    files = (
        *PLAN.secrets,
        SecretFile("gateway", "lab_g", "users", "end\n", (), 10003, 10003),
        SecretFile("gateway", "lab_g", "access-token", "{MLFLOW_TOKEN}", ("MLFLOW_TOKEN",), 10003, 10003),
    )
    plan = replace(PLAN, services=(replace(SERVER, ports=()), replace(NOTEBOOK, ports=()), gateway), secrets=files)
    public = on_docker(project(tmp_path, public="true", public_address="lab.example.org"))
    text = script.containers(plan, public, NotebookImage("x:1"))
    assert 'echo "MLflow: https://lab.example.org:$MLFLOW_PORT"' in text.splitlines()
    assert 'echo "JupyterLab: https://lab.example.org:$JUPYTER_PORT/lab?token=$JUPYTER_TOKEN"' in text.splitlines()
    assert "http://127.0.0.1" not in text
    login = text[text.index("# one login") : text.index('printf "user:')]
    done = subprocess.run(
        ["bash", "-c", f"set -eu\n{scripts.SECRET}\n{login}\necho $PASSWORD $SALT $HASH"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    password, salt, created = done.stdout.split()
    assert hashlib.sha256(bytes.fromhex(salt) + password.encode()).hexdigest() == created


def test_the_public_address_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cloud_metadata, "public_address", lambda: cloud_metadata.PublicAddress(why="no metadata service answers")
    )
    with pytest.raises(SettingError, match="needs the address"):
        dry_run.script(project(tmp_path, public="true"))


def test_what_no_machine_could_be_is_refused_before_the_address_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud_metadata, "public_address", lambda: pytest.fail("asked"))
    with pytest.raises(SettingError, match="PUBLIC=true needs the docker engine, or kubernetes, and this is embedded"):
        dry_run.script(project(tmp_path, public="true", engine="embedded"))


def test_no_secret_and_no_folder_is_made(tmp_path: Path) -> None:
    created = project(tmp_path, engine="embedded", gpu="mi100")
    assert "JUPYTER_TOKEN=$(secret)" in dry_run.script(created)
    created.dry_run = True
    assert created.credentials_digest() == "", "what Docker's plan asks for"
    assert not created.settings.state_dir.exists()


def test_an_engine_that_does_not_hold_the_data_is_refused(tmp_path: Path) -> None:
    created = project(tmp_path, engine="embedded")
    created.state.engine = "docker"
    with pytest.raises(EngineUnavailable, match="kept by the docker engine"):
        dry_run.script(created)


def test_the_login_of_an_index_is_in_no_script(tmp_path: Path) -> None:
    index = "https://sesame@wheels.example/whl"
    engine = EmbeddedEngine(project(tmp_path, gpu="none", torch="cpu", torch_index=index, engine="embedded"))
    said = engine.script(engine.plan())
    assert "sesame" not in said
    needed, install = said.partition(': "${TRACKBED_TORCH_INDEX:?export it first}"\n')[1:]
    assert needed and install.startswith('UV_DEFAULT_INDEX="$TRACKBED_TORCH_INDEX" uv pip install ')
    name = "trackbed/jupyter-mlflow:cpu"
    deployment = on_docker(project(tmp_path / "other", torch="cpu", torch_index=index))
    plan = replace(PLAN, services=(SERVER, replace(NOTEBOOK, image=name)))
    text = script.containers(plan, deployment, NotebookImage(name))
    assert "sesame" not in text
    assert text.index("${TRACKBED_TORCH_INDEX:?export it first}") < text.index(
        "id=torch-index,env=TRACKBED_TORCH_INDEX"
    )


@pytest.mark.parametrize("torch", ["auto", "cpu"])
def test_the_embedded_engines_commands_install_what_it_does(tmp_path: Path, torch: str) -> None:
    engine = EmbeddedEngine(project(tmp_path, gpu="none", torch=torch, engine="embedded"))
    said = engine.script(engine.plan())
    installed = [
        shlex.split(line.partition("/bin/python ")[2])
        for line in said.splitlines()
        if line.startswith("uv pip install ")
    ]
    assert installed == [
        [word.removeprefix(f"{clone.ROOT}/") for word in extra.argv()] for extra in engine.environments.torch()
    ]
    files = [words[-1] for words in installed]
    assert files == (
        [] if torch == "auto" else ["docker/jupyter/torch-cpu.in", "docker/jupyter/lightning-requirements.txt"]
    )
    assert all((clone.ROOT / name).is_file() for name in files)
