"""PyTorch as users get it: the CUDA 13 build from the package index, in the image and embedded, on no GPU.

Needs Docker, a package index and about 20 GB of disk. The image stays for the next time (its name is no default).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import ROOT, Clone, require_docker
from tests.integration import inspection
from tests.integration.workload import Lab

IMAGE = "trackbed/jupyter-mlflow:cuda-cuda13"
BUNDLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
NO_DRIVER = "PyTorch 2.13.0+cu130 for CUDA 13.0: Found no NVIDIA driver on your system."
VERSIONS = """
import json, lightning, mlflow, torch, torchvision
print(json.dumps({"cuda": torch.version.cuda, "gpu": torch.cuda.is_available(), "torchvision": torchvision.__version__,
                  "lightning": lightning.__version__, "product": float((torch.ones(8, 8) @ torch.ones(8, 8))[0, 0])}))
"""
TRAIN = """
import json, lightning, mlflow, torch

class Line(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        loss = torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.1)

x = torch.linspace(0, 1, 32).unsqueeze(1)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, 2 * x), batch_size=8)
mlflow.set_experiment("pytorch")
mlflow.pytorch.autolog()
with mlflow.start_run() as run:
    trainer = lightning.Trainer(max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(Line(), data)
found = mlflow.MlflowClient().get_run(run.info.run_id).data
version = mlflow.register_model(f"runs:/{run.info.run_id}/model", "line")
again = mlflow.pytorch.load_model(f"models:/line/{version.version}")
print(json.dumps({"lr": found.params["lr"], "loss": "train_loss" in found.metrics, "model": type(again).__name__}))
"""


@pytest.fixture(scope="module")
def docker(clone_factory: Callable[..., Clone]) -> Clone:
    require_docker()
    clone = clone_factory("docker")
    clone.environment |= {"TRACKBED_TORCH": "auto", "TRACKBED_JUPYTER_IMAGE": IMAGE}
    return clone


@pytest.fixture(scope="module")
def image(docker: Clone) -> str:
    done = docker.invoke("build", "jupyter", "--gpu=nvidia", timeout=3000)
    assert done.returncode == 0, done.stderr
    return IMAGE


@pytest.mark.timeout(3600)
def test_the_image_for_nvidia_has_pytorch_for_cuda_13(image: str) -> None:
    data = json.loads(inspection.output("docker", "run", "--rm", "--entrypoint", "python", image, "-c", VERSIONS))
    assert data == {"cuda": "13.0", "gpu": False, "torchvision": "0.28.0+cu130", "lightning": "2.6.6", "product": 8.0}
    reported = inspection.output("docker", "run", "--rm", "--entrypoint", "python", image, "-m", "pip", "check")
    assert "No broken requirements" in reported


def test_the_check_says_that_there_is_no_driver(image: str) -> None:
    words = json.dumps({"kind": "nvidia", "nodes": ["/dev/null"], "torch": True, "experiment": "x"})
    script = (ROOT / "helpers" / "gpu" / "check_script.py").read_text()
    done = inspection.run(
        "docker", "run", "--rm", "--interactive", "--entrypoint", "python", image, "-", words, stdin=script
    )
    opened, computes, metrics = map(json.loads, done.stdout.splitlines())
    assert opened["ok"] and computes["ok"] is False and computes["detail"].startswith(NO_DRIVER)
    assert metrics["detail"] == "skipped: an earlier check failed"


@pytest.mark.timeout(1200)
def test_lightning_logs_itself_and_its_model_comes_back(docker: Clone, image: str) -> None:
    docker.up()
    result = Lab(docker.value("jupyter-url")).run_cells([TRAIN], timeout=300).result
    assert result == {"lr": "0.1", "loss": True, "model": "Line"}


@contextmanager
def container(clone: Clone, image: str) -> Iterator[Callable[..., str]]:
    """A machine whose /dev/nvidia0 opens and computes nothing, with the clone in it; gives what a line prints there."""
    name = f"{clone.project}-machine"
    inspection.output(
        "docker",
        "run",
        "--detach",
        "--name",
        name,
        "--network",
        "host",
        "--user",
        "0",
        "--init",
        "--device",
        "/dev/null:/dev/nvidia0",
        "--volume",
        f"{clone.folder}:/clone",
        "--workdir",
        "/clone",
        *(
            word
            for key, value in clone.environment.items()
            if (key.startswith(("TRACKBED_", "PIP_", "UV_", "http", "HTTP")) and not key.endswith("FIND_LINKS"))
            or key in BUNDLES
            for word in ("--env", f"{key}={value}", *(["--volume", f"{value}:{value}:ro"] * (key in BUNDLES)))
        ),
        "--entrypoint",
        "sleep",
        image,
        "infinity",
    )
    try:

        def shell(line: str, code: int = 0) -> str:
            done = inspection.run("docker", "exec", name, "sh", "-c", f"umask 022; {line}", timeout=1800)
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout + done.stderr

        yield shell
    finally:
        inspection.run("docker", "rm", "--force", "--volumes", name)


@pytest.mark.timeout(3600)
def test_embedded_installs_the_same(docker: Clone, image: str, clone_factory: Callable[..., Clone]) -> None:
    clone = clone_factory("embedded")
    clone.environment |= {"TRACKBED_TORCH": "auto", "TRACKBED_STATE_DIR": "/var/lib/trackbed"}
    with container(clone, image) as shell:
        shell("sh setup.sh up --gpu=nvidia")
        reported = shell(".venv/bin/invoke check", code=1)
        assert NO_DRIVER in " ".join(reported.split())
        python = f"/var/lib/trackbed/{clone.project}/embedded/venvs/jupyter-*/bin/python"
        assert json.loads(shell(f"{python} -c '{VERSIONS}'").splitlines()[-1])["cuda"] == "13.0"
        shell(".venv/bin/invoke down --delete-data --yes")
