"""The lab that Trackbed was made for, from beginning to end, with PyTorch's real build and on no GPU.

A training script with Lightning in a git repository of the workspace, Food-11's class folders in a Docker volume (drawn
pictures), two runs that differ in one setting, the better one registered and loaded back. Nothing of the lab's own
text or code is here. Needs what test_pytorch.py needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.conftest import Clone, require_docker
from tests.integration import inspection
from tests.integration.terminals import Terminal
from tests.integration.test_examples import LIGHTNING, lessons, run
from tests.integration.workload import Lab
from tests.pytorch.test_pytorch import IMAGE

# eleven classes of a few pictures each, in the three parts of Food-11
DRAW = """
from pathlib import Path
from PIL import Image
for part, count in (("training", 12), ("validation", 4), ("evaluation", 4)):
    for number in range(11):
        folder = Path("/data/Food-11", part, f"class_{number:02}")
        folder.mkdir(parents=True)
        for shade in range(count):
            Image.new("RGB", (96, 80), (number * 23, 255 - number * 23, shade * 20)).save(folder / f"{shade}.jpg")
"""
TRAIN = """
import os, shutil, subprocess
import lightning as L, mlflow, torch, torchvision
from torchvision import transforms as T

config = {"batch_size": 16, "num_workers": 0, "lr": 1e-3, "epochs": 2}
steps = T.Compose([T.Resize((64, 64)), T.ToTensor()])

def loader(part, shuffle=False):
    pictures = torchvision.datasets.ImageFolder(os.path.join(os.environ["FOOD11_DATA_DIR"], part), transform=steps)
    return torch.utils.data.DataLoader(
        pictures, config["batch_size"], shuffle=shuffle, num_workers=config["num_workers"]
    )

class Food11(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = torchvision.models.mobilenet_v2(weights=None, num_classes=11)

    def step(self, batch, part):
        outputs = self.model(batch[0])
        loss = torch.nn.functional.cross_entropy(outputs, batch[1])
        accuracy = (outputs.argmax(1) == batch[1]).float().mean()
        self.log_dict({part + "_loss": loss, part + "_accuracy": accuracy}, on_epoch=True, on_step=False)
        return loss

    def training_step(self, batch, _):
        return self.step(batch, "train")

    def validation_step(self, batch, _):
        self.step(batch, "val")

    def test_step(self, batch, _):
        self.step(batch, "test")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), config["lr"])

trainer = L.Trainer(max_epochs=config["epochs"], accelerator="auto", devices="auto", enable_progress_bar=False)
mlflow.set_experiment("food11-classifier")
mlflow.pytorch.autolog(log_models=False)
with mlflow.start_run(log_system_metrics=True):
    if trainer.global_rank == 0:
        mlflow.log_params(config)
        program = next((name for name in ("nvidia-smi", "rocm-smi") if shutil.which(name)), None)
        shown = subprocess.run([program], capture_output=True, text=True).stdout if program else "No GPU found."
        mlflow.log_text(shown, "gpu-info.txt")
    model = Food11()
    trainer.fit(model, loader("training", shuffle=True), loader("validation"))
    trainer.test(model, loader("evaluation"))
    if trainer.global_rank == 0:
        mlflow.pytorch.log_model(model.model, name="food11", serialization_format="pickle",
                                 pip_requirements=["torch", "torchvision"])
print("trained")
"""
# what a notebook does with the runs: the best one gets a name, and is loaded back
REGISTER = """
import json, mlflow, torch
client = mlflow.MlflowClient()
runs = mlflow.search_runs(experiment_names=["food11-classifier"], order_by=["metrics.test_loss ASC"])
best = runs.run_id[0]
version = mlflow.register_model(f"runs:/{best}/food11", "food11-lab")
client.set_registered_model_alias("food11-lab", "champion", version.version)
model = mlflow.pytorch.load_model("models:/food11-lab@champion").eval()
text = mlflow.artifacts.load_text(f"runs:/{best}/gpu-info.txt")
print(json.dumps({"runs": list(runs.run_id), "best": best, "workers": sorted(runs["params.num_workers"]),
                  "commits": len(set(runs["tags.mlflow.source.git.commit"])), "gpu": text, "version": version.version,
                  "epochs": [point.step for point in client.get_metric_history(best, "val_loss")],
                  "system": [name for name in client.get_run(best).data.metrics if name.startswith("system/")] != [],
                  "shape": list(model(torch.zeros(1, 3, 64, 64)).shape)}))
"""


@pytest.fixture(scope="module")
def clone(clone_factory: Callable[..., Clone]) -> Iterator[Clone]:
    require_docker()
    clone = clone_factory("docker")
    clone.environment |= {"TRACKBED_TORCH": "auto", "TRACKBED_JUPYTER_IMAGE": IMAGE}
    built = clone.invoke("build", "jupyter", "--gpu=nvidia", timeout=3000)
    assert built.returncode == 0, built.stderr
    data = f"{clone.project}-food11"
    inspection.output("docker", "volume", "create", data)
    filled = ("docker", "run", "--rm", "--user=0", "--volume", f"{data}:/data", "--entrypoint", "python", IMAGE)
    inspection.output(*filled, "-c", DRAW)
    clone.environment["TRACKBED_DATA_VOLUME"] = data
    yield clone
    clone.invoke("down")
    inspection.run("docker", "volume", "rm", data)


@pytest.fixture(scope="module")
def lab(clone: Clone) -> Lab:
    clone.up()
    return Lab(clone.value("jupyter-url"))


@pytest.mark.timeout(3600)
def test_the_lab(clone: Clone, lab: Lab) -> None:
    assert {one["state"] for one in clone.services().values()} <= {"ready", "done"}
    for service in ("mlflow", "console"):
        with build_opener(ProxyHandler({})).open(f"{clone.url(service)}/", timeout=60) as page:
            assert page.status == 200
    with Terminal(lab, timeout=1200) as terminal:
        shown = terminal.type("env")
        assert "MLFLOW_TRACKING_URI=http://mlflow:8000" in shown and "FOOD11_DATA_DIR=/mnt/Food-11" in shown
        assert terminal.type("ls $FOOD11_DATA_DIR").split() == ["evaluation", "training", "validation"]
        terminal.type("cd ~/work && mkdir food11 && cd food11 && git init -q .")
        terminal.type("git config --global user.name Ann; git config --global user.email ann@example.org")
        lab.request("PUT", "contents/food11/train.py", {"type": "file", "format": "text", "content": TRAIN})
        for workers in (0, 2):
            terminal.type(f"sed -i 's/num_workers\": [0-9]/num_workers\": {workers}/' train.py")
            terminal.type(f"git add train.py && git commit -qm '{workers} workers'")
            often = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL=1"  # a run of the lab takes minutes
            output = terminal.type(f"{often} python3 train.py")
            assert output.endswith("trained") or "View run" in output, output[-3000:]
    result = lab.run_cells([REGISTER], timeout=300).result
    assert len(result["runs"]) == 2 and result["workers"] == ["0", "2"] and result["commits"] == 2
    assert result["epochs"] == [0, 1] and result["system"] and result["gpu"] == "No GPU found."
    assert int(result["version"]) == 1 and result["shape"] == [1, 11]
    assert clone.invoke("down").returncode == 0
    clone.up()
    run_info = inspection.mlflow(clone, f"runs/get?run_id={result['best']}")["run"]["info"]
    assert run_info["status"] == "FINISHED"


@pytest.mark.timeout(1800)
def test_each_lesson_runs_through_with_pytorch(clone: Clone, lab: Lab) -> None:
    clone.up()
    again = Lab(clone.value("jupyter-url"))
    for name in lessons(again):
        output = run(again, name)
        if name == LIGHTNING:
            assert "the pictures in /mnt/Food-11" in output and "11 classes" in output
