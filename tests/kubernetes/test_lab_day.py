"""A lab day: build, up with a GPU word, check, a notebook's run, backup, move from Docker and back, down."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Clone
from tests.environment.kubernetes import images
from tests.integration.test_backup import everything, experiment, log_run, there_and_back
from tests.integration.test_platform import NOTEBOOK
from tests.integration.workload import Lab
from tests.kubernetes import cluster
from tests.kubernetes.site_proxy import SiteProxy, site_proxy

# What the notebook's pod reaches through the site's proxy, and, by the site's certificates, without it.
OUTSIDE = """
import ssl, urllib.error, urllib.request
print(urllib.request.urlopen("http://packages.example.org/simple", timeout=20).read().decode())
trust = ssl.create_default_context()
trust.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the cluster's authority is a plain one
try:
    urllib.request.urlopen("https://10.245.0.11:6443/", timeout=20, context=trust)
except urllib.error.HTTPError as answer:
    print(answer.code)
"""


@pytest.fixture
def proxy() -> Iterator[SiteProxy]:
    with site_proxy() as created:
        yield created


def test_a_lab_day(clone_factory: Callable[..., Clone], proxy: SiteProxy, tmp_path: Path) -> None:
    clone = clone_factory("kubernetes", gpu="mi100")
    clone.environment |= {"HTTP_PROXY": proxy.url, "PIP_CERT": str(images.HOME / "pki" / "ca.crt")}
    clone.up()
    the_site_is_known(clone, proxy)
    checked = clone.invoke("check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    notebook = cluster.pods(clone.project, "jupyter")[0]
    assert notebook["spec"]["containers"][0]["resources"]["limits"]["amd.com/gpu"] == "1"
    assert notebook["spec"]["nodeName"] == "node1"
    trained = Lab(clone.value("jupyter-url")).run_notebook(NOTEBOOK).result
    assert len(proxy.asked) == 1, "nothing of the cluster is asked for through the site's proxy"
    log_run(clone, experiment(clone), "kept", b"content")
    before = everything(clone)
    archive = tmp_path / "lab.trackbed"
    done = clone.invoke("backup", f"--to={archive}")
    assert done.returncode == 0, done.stderr
    log_run(clone, experiment(clone), "later", b"")
    done = clone.invoke("restore", str(archive), "--yes")
    assert done.returncode == 0, done.stderr
    assert everything(clone) == before
    assert trained["run_id"] in {run["info"]["run_id"] for run in before}
    done = clone.invoke("down", "--delete-data", "--yes")
    assert done.returncode == 0, done.stderr
    assert cluster.objects("persistentvolumeclaims", clone.project) == []
    assert f"namespace/{clone.project}" not in cluster.kubectl("get", "namespaces", "--output=name").split()


def the_site_is_known(clone: Clone, proxy: SiteProxy) -> None:
    """The notebook knows this machine's proxy and certificates; only Secrets have the proxy's password."""
    words = ("exec", "jupyter-0", f"--namespace={clone.project}", "--", "python", "-c", OUTSIDE)
    assert cluster.kubectl(*words).split("\n") == ["by the proxy", "403"]
    assert proxy.asked == ["http://packages.example.org/simple"]
    dry = clone.invoke("up", "--dry-run")
    assert dry.returncode == 0 and "hunter2" not in dry.stdout
    listed = json.dumps([cluster.objects(kind, clone.project) for kind in ("configmaps", "statefulsets", "pods")])
    assert "hunter2" not in listed


def test_move_from_docker_and_back(clone_factory: Callable[..., Clone]) -> None:
    clone = clone_factory("docker")
    clone.up()
    (clone.project_folder / "workspace" / "note.txt").write_text("kept")

    def the_files_came() -> None:
        found = Lab(clone.value("jupyter-url")).request("GET", "contents/note.txt")
        assert found["content"] == "kept"

    there_and_back(clone, "kubernetes", the_files_came)
