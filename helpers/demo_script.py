"""A small real training, from inside the notebook's own environment: a classifier of handwritten digits.

Fed to that environment's Python by `invoke demo`; nothing of Trackbed is there. Each line is JSON: ["run", EXPERIMENT,
RUN, DEVICE], then ["epoch", NUMBER, LOSS, ACCURACY] once MLflow has it, at last ["end"]. Its one argument: epochs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import IO, Any

EXPERIMENT = "demo"
OUTPUT: IO[str] | None = None


def own_output() -> IO[str]:
    """This program's stdout; what libraries and their programs print goes to stderr from now on."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own


def say(*line: Any) -> None:
    lines = OUTPUT or sys.stdout
    lines.write(json.dumps(line) + "\n")
    lines.flush()


def gpu() -> str:
    """The GPU that PyTorch can compute on, "" for none."""
    try:
        import torch  # type: ignore[import-not-found]
    except ImportError:
        return ""
    return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else ""


def data() -> tuple[Any, Any, Any, Any]:
    """Pictures and digits to train with, and others to test with."""
    from sklearn.datasets import load_digits  # type: ignore[import-not-found]
    from sklearn.model_selection import train_test_split  # type: ignore[import-not-found]

    pictures, digits = load_digits(return_X_y=True)
    train, test, labels, expected = train_test_split(pictures / 16.0, digits, test_size=0.25, random_state=0)
    return train, test, labels, expected


def on_cpu(epochs: int) -> Iterator[tuple[float, float]]:
    """Loss and accuracy after each epoch."""
    import numpy  # type: ignore[import-not-found]
    from sklearn.metrics import log_loss  # type: ignore[import-not-found]
    from sklearn.neural_network import MLPClassifier  # type: ignore[import-not-found]

    train, test, labels, expected = data()
    model = MLPClassifier((32,), learning_rate_init=0.002, batch_size=64, random_state=0)
    for _ in range(epochs):
        model.partial_fit(train, labels, classes=numpy.arange(10))
        yield float(log_loss(expected, model.predict_proba(test))), float(model.score(test, expected))


def on_gpu(epochs: int) -> Iterator[tuple[float, float]]:
    """The same with PyTorch."""
    import torch

    train, test, labels, expected = (torch.tensor(part).to("cuda") for part in data())
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)).to("cuda")
    optimizer, lost = torch.optim.Adam(model.parameters(), lr=0.002), torch.nn.CrossEntropyLoss()
    for _ in range(epochs):
        for batch in torch.randperm(len(train), device="cuda").split(64):
            optimizer.zero_grad()
            lost(model(train[batch].float()), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            answers = model(test.float())
            yield float(lost(answers, expected)), float((answers.argmax(1) == expected).double().mean())


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def main(epochs: int) -> None:
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # stdout is the protocol
    os.environ["TRACKBED_BROWSER_URL"] = ""
    import mlflow  # type: ignore[import-not-found]

    signal.signal(signal.SIGTERM, interrupted)
    mlflow.set_experiment(EXPERIMENT)
    device = gpu()
    with mlflow.start_run(run_name="digits") as run:
        mlflow.log_params({"epochs": epochs, "hidden": 32, "learning_rate": 0.002, "device": device or "cpu"})
        try:
            say("run", run.info.experiment_id, run.info.run_id, device or "CPU")
            for number, (loss, accuracy) in enumerate((on_gpu if device else on_cpu)(epochs), 1):
                mlflow.log_metrics({"loss": loss, "accuracy": accuracy}, step=number)
                say("epoch", number, loss, accuracy)
        except (KeyboardInterrupt, BrokenPipeError):  # nobody listens any more
            mlflow.end_run("KILLED")
            os._exit(1)
    say("end")


if __name__ == "__main__":
    OUTPUT = own_output()
    main(int(sys.argv[2]))
