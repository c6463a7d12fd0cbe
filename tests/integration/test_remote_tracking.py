"""Only a notebook here, the remote tracking server: behind TLS of a private CA and a login."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Clone, docker_answers
from tests.integration import inspection
from tests.integration.tls_proxy import TlsProxy, authority, basic, certificate, tls_proxy

USER, PASSWORD = "ada", "pa$s'w:ord\"%"
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="NOT TESTED: no openssl to make certificates")


def set_env(clone: Clone, **values: str) -> None:
    """The user's .env, private as it has to be."""
    path = clone.folder / ".env"
    quoted = {name: "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" for name, value in values.items()}
    path.write_text("".join(f"{name}={value}\n" for name, value in quoted.items()))
    path.chmod(0o600)


@dataclass
class Site:
    """A notebook-only project, and the remote tracking server with what guards it."""

    clone: Clone
    server: Clone
    proxy: TlsProxy
    ca: Path


@pytest.fixture(scope="module")
def server(deployments: Callable[[str], Clone]) -> Clone:
    created = deployments("docker" if docker_answers() else "embedded")
    created.up()
    return created


@pytest.fixture(scope="module")
def address(engine: str) -> str:
    """An address of this machine that the notebook reaches."""
    if engine == "docker":
        return inspection.output("docker", "network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}")
    return "127.0.0.1"


@pytest.fixture(scope="module")
def site(
    engine: str,
    address: str,
    server: Clone,
    clone_factory: Callable[..., Clone],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    ca = authority(tmp_path_factory.mktemp("ca"))
    clone = clone_factory(engine)
    with tls_proxy(address, server.ports["mlflow"], certificate(ca, address), basic(USER, PASSWORD)) as created:
        set_env(clone, TRACKING_PASSWORD=PASSWORD)
        done = clone.invoke(
            "jupyter",
            f"--tracking-uri={created.url}/",
            f"--tracking-username={USER}",
            f"--tracking-ca={ca}",
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        yield Site(clone, server, created, ca)


def test_only_the_notebook_runs(site: Site) -> None:
    reported = json.loads(site.clone.value("status", "--format=json"))
    assert [service["service"] for service in reported["services"]] == ["jupyter"] and reported["services"][0][
        "state"
    ] == "ready"
    assert reported["tracking_uri"] == site.proxy.url
    assert f"export MLFLOW_TRACKING_URI={site.proxy.url}" in site.clone.value("status", "--format=env")
    url = site.clone.value("jupyter-url")
    assert inspection.ask(url.replace("localhost", "127.0.0.1"))[0] == 200
    if site.clone.engine == "docker":
        assert inspection.containers(site.clone) == [f"{site.clone.project}-jupyter"]
        volumes = inspection.output("docker", "volume", "ls", "--format", "{{.Name}}").split()
        mine = f"{site.clone.project}_"
        assert [v for v in volumes if v.startswith(mine)] == [f"{mine}secrets-jupyter"]


def running(clone: Clone) -> object:
    """Changes when the notebook was made or started again."""
    return (
        inspection.identities(clone) if clone.engine == "docker" else clone.services()["jupyter"]["since"].split(",")[0]
    )


def test_second_up_changes_nothing(site: Site) -> None:
    before = running(site.clone)
    for task in ("jupyter", "up"):
        done = site.clone.invoke(task)
        assert done.returncode == 0, done.stderr
        assert site.proxy.url in done.stderr and "starting" not in done.stderr
    after = running(site.clone)
    assert after == before


def test_check_logs_to_the_server_elsewhere(site: Site) -> None:
    site.proxy.requests.clear()
    done = site.clone.invoke("check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not ours to look at" in done.stdout and site.proxy.url in done.stdout
    assert {status for method, _, status in site.proxy.requests if method} <= {200, 404}, "404: no experiment yet"
    assert [s for method, path, s in site.proxy.requests if method == "PUT" and "/mlflow-artifacts/" in path] == [200]
    assert not [path for _, path, _ in site.proxy.requests if "presigned" in path], (
        "the store has a name only over there"
    )
    runs = inspection.psql(site.server, "SELECT count(*) FROM tags WHERE key = 'trackbed.check'")
    assert int(runs) >= 1


def test_the_login_is_only_in_its_file(site: Site) -> None:
    clone = site.clone
    if clone.engine == "docker":
        name = f"{clone.project}-jupyter"
        assert "pa$s" not in inspection.output("docker", "inspect", name)
        assert PASSWORD not in inspection.output("docker", "exec", name, "cat", "/proc/1/environ", "/proc/1/cmdline")
        assert PASSWORD not in inspection.output("docker", "logs", name)
        listed = inspection.output("docker", "exec", name, "stat", "-c", "%a %U", "/run/secrets/tracking-password")
        assert listed == "400 jovyan"
    else:
        pid = next(pid for pid in inspection.processes(clone) if "jupyterlab" in inspection.command(pid))
        assert PASSWORD.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        assert PASSWORD not in inspection.command(pid)
        path = clone.project_folder / "embedded" / "secrets" / "tracking-password"
        assert path.stat().st_mode & 0o777 == 0o400 and path.read_text() == PASSWORD
    for words in (("status",), ("logs", "jupyter"), ("jupyter", "--dry-run")):
        done = clone.invoke(*words)
        assert PASSWORD not in done.stdout + done.stderr, words
    assert PASSWORD not in (clone.project_folder / "state.json").read_text()


def test_the_login_goes_to_its_server_alone(site: Site, address: str) -> None:
    """A notebook that turns to another server does not hand it the password."""
    ask = (
        "import mlflow, sys; mlflow.set_tracking_uri(sys.argv[1]); "
        "mlflow.MlflowClient().search_experiments(max_results=1)"
    )
    with tls_proxy(address, site.server.ports["mlflow"], None, "never") as other:
        url = f"http://{address}:{other.port}"
        if site.clone.engine == "docker":
            done = inspection.run("docker", "exec", f"{site.clone.project}-jupyter", "python", "-c", ask, url)
        else:
            process = inspection.main_process(site.clone, "jupyter")
            entries = Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")
            environment = dict(entry.split("=", 1) for entry in entries if "=" in entry)
            done = inspection.run(inspection.command(process).split()[0], "-c", ask, url, env=environment)
        assert done.returncode and "401" in done.stderr
    assert other.headers and not any(other.headers), "an Authorization header was sent"


@pytest.fixture
def put_right(site: Site) -> Iterator[None]:
    """However a test left it, the notebook logs to the proxy again."""
    login = site.proxy.login
    yield
    site.proxy.login = login
    set_env(site.clone, TRACKING_PASSWORD=PASSWORD)
    done = site.clone.invoke(
        "jupyter", f"--tracking-uri={site.proxy.url}", f"--tracking-username={USER}", f"--tracking-ca={site.ca}"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("put_right")
def test_what_is_wrong_with_the_server_is_said(site: Site, address: str, tmp_path: Path) -> None:
    clone = site.clone

    def fails(*words: str, said: str) -> None:
        done = clone.invoke("jupyter", *words, timeout=PATIENCE)
        inspection.refused(done, 1, "from inside it", said)
        # Docker's own health check may come some seconds after our answer
        state = inspection.until(lambda: clone.services()["jupyter"]["state"].replace("starting", ""))
        assert state == "ready", "the notebook stays"

    set_env(clone, TRACKING_PASSWORD="wrong")
    fails(said="does not accept the login (401)")
    set_env(clone)
    fails("--tracking-ca=", said="an authority that is not known here")
    if clone.engine == "embedded":  # the same program says the rest, see below
        return
    fails("--tracking-username=", said="wants a login (401)")
    fails(f"--tracking-ca={authority(tmp_path)}", said="another authority than TRACKING_CA")
    nobody = "--tracking-username="  # the password is this server's alone
    with tls_proxy(address, 1, certificate(site.ca, "mlflow.example.org")) as other:
        fails(f"--tracking-uri={other.url}", nobody, said="certificate for another name")
    with tls_proxy(address, site.server.ports["mlflow"], None) as plain:
        fails(f"--tracking-uri=https://{address}:{plain.port}", nobody, said="does not speak TLS")
        fails(f"--tracking-uri=http://{address}:{plain.port}/nothing", nobody, said="no MLflow at this address (404)")
    fails(f"--tracking-uri=http://{address}:{plain.port}", nobody, said="refuses the connection")
    fails("--tracking-uri=http://nohost.invalid", nobody, said="does not resolve")


@pytest.mark.usefixtures("put_right")
def test_a_token_instead_of_user_and_password(site: Site) -> None:
    site.proxy.login = "Bearer tok.en/1+2="
    set_env(site.clone, TRACKING_TOKEN="tok.en/1+2=")
    done = site.clone.invoke("jupyter", "--tracking-username=")
    assert done.returncode == 0, done.stderr
    assert site.clone.invoke("check").returncode == 0
    set_env(site.clone)  # kept: later commands need it, too
    assert site.clone.invoke("jupyter").returncode == 0
    inspection.refused(
        site.clone.invoke("jupyter", f"--tracking-username={USER}", TRACKBED_TRACKING_TOKEN="x"),
        2,
        "TRACKING_TOKEN",
        "TRACKING_USERNAME",
    )


def test_a_system_with_a_server_of_its_own_is_not_hidden(site: Site) -> None:
    before = inspection.identities(site.server)
    done = site.server.invoke("jupyter", "--tracking-uri=https://mlflow.example.org")
    inspection.refused(done, 1, "has a tracking server and data of its own", "--project=NAME")
    assert inspection.identities(site.server) == before
    assert "postgres" in site.server.services(), "what was refused is not remembered"
    assert "--tracking-uri" not in site.server.invoke("doctor").stderr, "nor looked at"


def test_settings_that_cannot_be(site: Site, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN PRIVATE KEY-----\n")
    bare = {"TRACKBED_PROJECT": "rem-none"}
    inspection.refused(site.clone.invoke("jupyter", around=bare), 2, "TRACKING_URI is missing", "invoke up")
    for words, said in (
        (["--tracking-uri=mlflow.example.org"], "https://mlflow.example.org"),
        (["--tracking-uri=https://ada:pw@mlflow.example.org"], "TRACKING_USERNAME"),
        (["--tracking-uri=https://m.example.org", f"--tracking-ca={key}"], "PEM form"),
        (["--tracking-uri=https://m.example.org", "--tracking-ca=/nowhere.pem"], "No such file"),
    ):
        inspection.refused(site.clone.invoke("jupyter", *words, around=bare), 2, said)


def test_down_and_up_again(site: Site) -> None:
    done = site.clone.invoke("down")
    assert done.returncode == 0 and "jupyter" in done.stderr, done.stderr
    assert inspection.nothing_runs(site.clone)
    if site.clone.engine == "docker":
        assert site.clone.project not in inspection.output("docker", "network", "ls", "--format", "{{.Name}}")
    done = site.clone.invoke("up")
    assert done.returncode == 0, done.stderr
    assert site.clone.invoke("check").returncode == 0
