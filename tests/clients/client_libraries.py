"""Run by a client's Python: what libraries and commands log by themselves, and what came back of it as JSON.

Arguments: an experiment of its own and the name of a function below. MLFLOW_TRACKING_URI is set.
What differs from run to run (ids, times, folders) is left out: two servers are equal when their lines are.
"""

import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import mlflow  # type: ignore[import-not-found]
from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]

name, what = sys.argv[1:]
uri = os.environ["MLFLOW_TRACKING_URI"]


def own_metrics(found: dict[str, float]) -> dict[str, float]:
    """Without those of the machine: the notebook logs them for runs that last longer than ten seconds, and MLflow's
    client gives them to the model that is active, too.
    """
    return {key: value for key, value in found.items() if not key.startswith("system/")}


def rounded(value: Any) -> Any:
    """Numbers to seven digits, in whatever holds them: NaN and infinities are words."""
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        value = value.tolist()
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else str(value)
    return value


def tree(run: str, path: Any = None) -> Any:
    """Every artifact below a path."""
    result: list[str] = []
    for one in MlflowClient().list_artifacts(run, path):
        result += tree(run, one.path) if one.is_dir else [one.path]
    return sorted(result)


def read_back(run: str, *histories: Any) -> Any:
    """All of a run but what differs from run to run, the models that were logged in it, and the steps of a metric."""
    client = MlflowClient()
    result = client.get_run(run)
    tags = {key: value for key, value in result.data.tags.items() if not key.startswith("mlflow.")}
    logged = [one for one in client.search_logged_models([result.info.experiment_id]) if one.source_run_id == run]
    models = [
        [
            one.name,
            str(one.status),
            sorted(one.params or {}),
            sorted(own_metrics({metric.key: metric.value for metric in one.metrics or []})),
            sorted(file.path for file in client.list_logged_model_artifacts(one.model_id)),
        ]
        for one in logged
    ]
    steps = {key: [[one.step, rounded(one.value)] for one in client.get_metric_history(run, key)] for key in histories}
    inputs = [
        [one.dataset.source_type, sorted(json.loads(one.dataset.schema or "{}"))]
        for one in result.inputs.dataset_inputs
    ]
    return [
        result.info.status,
        result.data.params,
        rounded(own_metrics(result.data.metrics)),
        tags,
        tree(run),
        sorted(models),
        steps,
        inputs,
    ]


def only_run(experiment: str) -> Any:
    [result] = MlflowClient().search_runs([experiment])
    return result.info.run_id


def opentelemetry(experiment: str) -> Any:
    """The OTLP exporter of OpenTelemetry's own SDK, as an application that knows nothing of MLflow would use it."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import Compression, OTLPSpanExporter  # type: ignore[import-not-found]
    from opentelemetry.sdk.trace import TracerProvider  # type: ignore[import-not-found]
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # type: ignore[import-not-found]

    for packed in (Compression.NoCompression, Compression.Gzip, Compression.Deflate):
        exporter = OTLPSpanExporter(
            endpoint=f"{uri}/v1/traces", headers={"x-mlflow-experiment-id": experiment}, compression=packed
        )
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(exporter))
        tracer = provider.get_tracer("app")
        with tracer.start_as_current_span(f"request {packed.value}") as span:
            span.set_attribute("user", "é")
            for number in range(300):
                with tracer.start_as_current_span(f"step {number}"):
                    pass
        provider.shutdown()
    traces = MlflowClient().search_traces(experiment_ids=[experiment])
    return sorted(
        [
            len(trace.data.spans),
            next(span.name for span in trace.data.spans if span.parent_id is None),
            len({span.parent_id for span in trace.data.spans}),
        ]
        for trace in traces
    )


def small_data() -> Any:
    import numpy  # type: ignore[import-not-found]

    data = numpy.arange(40.0).reshape(20, 2)
    return data, numpy.arange(20) % 2


def sklearn(experiment: str) -> Any:
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-not-found]
    from sklearn.model_selection import GridSearchCV  # type: ignore[import-not-found]

    mlflow.sklearn.autolog()
    data, labels = small_data()
    LogisticRegression(C=0.5).fit(data, labels)
    run = only_run(experiment)
    model = mlflow.sklearn.load_model(f"runs:/{run}/model")
    notes = [read_back(run), model.predict(data).tolist()]
    with mlflow.start_run(run_name="search") as parent:  # a child run for each choice
        GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0, 10.0]}, cv=2).fit(data, labels)
    children = MlflowClient().search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return [*notes, read_back(parent.info.run_id), sorted([run.info.status, run.data.params["C"]] for run in children)]


def xgboost(experiment: str) -> Any:
    import xgboost as library  # type: ignore[import-not-found]

    mlflow.xgboost.autolog()
    data, labels = small_data()
    matrix = library.DMatrix(data, label=labels, feature_names=["a", "b"])
    booster = library.train(
        {"max_depth": 2, "objective": "binary:logistic", "eval_metric": ["logloss", "error"]},
        matrix,
        num_boost_round=7,
        evals=[(matrix, "train")],
        early_stopping_rounds=5,
        verbose_eval=False,
    )
    run = only_run(experiment)
    model = mlflow.xgboost.load_model(f"runs:/{run}/model")
    return [read_back(run, "train-logloss"), (model.predict(matrix) == booster.predict(matrix)).all().tolist()]


def trials(storage: Any) -> Any:
    import optuna  # type: ignore[import-not-found]
    from optuna_integration import MLflowCallback  # type: ignore[import-not-found]

    study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    study.optimize(
        lambda trial: trial.suggest_float("x", -1, 1) ** 2,
        n_trials=5,
        callbacks=[MLflowCallback(tracking_uri=uri, metric_name="square", create_experiment=False)],
    )


def optuna(experiment: str) -> Any:
    """Four processes with one study."""
    import optuna as library

    storage = f"sqlite:///{tempfile.mkdtemp()}/study.db"
    library.create_study(storage=storage, study_name=name)
    pool = multiprocessing.get_context("spawn")
    workers = [pool.Process(target=trials, args=(storage,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    runs = MlflowClient().search_runs([experiment])
    values = {trial.number: trial.value for trial in library.load_study(study_name=name, storage=storage).trials}
    return [
        [worker.exitcode for worker in workers],
        len(runs),
        {run.info.status for run in runs} == {"FINISHED"},
        sorted(run.data.metrics["square"] for run in runs) == sorted(values.values()),
    ]


def lightning(experiment: str) -> Any:
    """MLflow's autolog, then Lightning's own logger, which uploads its checkpoints."""
    import torch  # type: ignore[import-not-found]
    from lightning.pytorch import LightningModule, Trainer, seed_everything  # type: ignore[import-not-found]
    from lightning.pytorch.loggers import MLFlowLogger  # type: ignore[import-not-found]

    class Tiny(LightningModule):  # type: ignore[misc]
        def __init__(self, width: Any = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(width, 1)

        def training_step(self, batch: Any, _: Any) -> Any:
            loss = self.layer(batch[0]).square().mean()
            self.log("loss", loss, on_epoch=True, on_step=False)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(logger: Any) -> Any:
        seed_everything(1)
        rows = torch.utils.data.TensorDataset(torch.rand(8, 4))
        module = Tiny()
        Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=logger,
            enable_progress_bar=False,
            log_every_n_steps=1,
            default_root_dir=tempfile.mkdtemp(),
        ).fit(module, torch.utils.data.DataLoader(rows, batch_size=4))
        return module

    mlflow.pytorch.autolog()
    module = fit(False)
    first = only_run(experiment)
    model = mlflow.pytorch.load_model(f"runs:/{first}/model")
    same = bool(torch.equal(model.layer.weight, module.layer.weight))
    mlflow.pytorch.autolog(disable=True)
    logger = MLFlowLogger(experiment_name=name, tracking_uri=uri, log_model=True, run_name="logger")
    fit(logger)
    return [read_back(first, "loss"), same, read_back(logger.run_id, "loss")]


def transformers(experiment: str) -> Any:
    """The Trainer's callback on a tiny made model, artifacts included."""
    os.environ.update({"MLFLOW_EXPERIMENT_NAME": name, "HF_MLFLOW_LOG_ARTIFACTS": "1", "HF_HUB_OFFLINE": "1"})
    import torch
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments  # type: ignore[import-not-found]

    torch.manual_seed(1)
    model = BertForSequenceClassification(
        BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    rows = [
        {"input_ids": torch.tensor([1, 2, 3 + number % 7]), "labels": torch.tensor(number % 2)} for number in range(16)
    ]
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    Trainer(
        model,
        TrainingArguments(
            output_dir="out",
            run_name="tiny",
            report_to=["mlflow"],
            num_train_epochs=2,
            per_device_train_batch_size=4,
            logging_steps=1,
            save_steps=4,
            eval_strategy="epoch",
            use_cpu=True,
            seed=1,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        eval_dataset=rows[:4],
    ).train()
    mlflow.end_run()
    reported = read_back(only_run(experiment), "loss", "eval_loss")
    reported[2] = sorted(reported[2])  # seconds and samples a second among them
    return reported


def evaluate(experiment: str) -> Any:
    """The evaluation of a classifier, with its tables and figures."""
    import pandas  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression

    data, labels = small_data()
    table = pandas.DataFrame(data, columns=["a", "b"]).assign(label=labels)
    with mlflow.start_run() as active:
        model = mlflow.sklearn.log_model(
            LogisticRegression().fit(data, labels), name="model", pip_requirements=["scikit-learn"]
        )
        result = mlflow.models.evaluate(
            model.model_uri, table, targets="label", model_type="classifier", evaluator_config={"log_explainer": False}
        )
    return [read_back(active.info.run_id), rounded(result.metrics), sorted(result.artifacts)]


def genai(experiment: str) -> Any:
    """An evaluation of answers by functions of one's own: traces and what was said of them."""
    from mlflow.entities import AssessmentSource, AssessmentSourceType  # type: ignore[import-not-found]
    from mlflow.genai import scorer  # type: ignore[import-not-found]

    @scorer  # type: ignore[untyped-decorator]
    def same(outputs: Any, expectations: Any) -> Any:
        return outputs == expectations["answer"]

    @scorer  # type: ignore[untyped-decorator]
    def length(outputs: Any) -> Any:
        return len(outputs)

    @mlflow.trace  # type: ignore[untyped-decorator]
    def answer(question: Any) -> Any:
        return question.upper()

    rows = [
        {"inputs": {"question": word}, "expectations": {"answer": "É" if word == "é" else "none"}}
        for word in ("é", "b", "c")
    ]
    result = mlflow.genai.evaluate(data=rows, predict_fn=answer, scorers=[same, length])
    traces = MlflowClient().search_traces(experiment_ids=[experiment])
    mlflow.log_feedback(
        trace_id=traces[0].info.trace_id,
        name="liked",
        value=True,
        rationale="ü",
        source=AssessmentSource(source_type=AssessmentSourceType.HUMAN, source_id="me"),
    )
    liked = [one.value for one in mlflow.get_trace(traces[0].info.trace_id).info.assessments if one.name == "liked"]
    prompt = mlflow.genai.register_prompt(name=f"{name}-prompt", template="Say {{word}}: é")
    return [
        rounded(result.metrics),
        liked,
        prompt.version,
        mlflow.genai.load_prompt(f"{name}-prompt", 1).template,
        sorted(
            [
                trace.data.request,
                trace.data.response,
                sorted([one.name, rounded(one.value)] for one in trace.info.assessments),
            ]
            for trace in traces
        ),
    ]


def typed(*words: str, **options: Any) -> Any:
    """What a command prints, without ids."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, **options)
    assert done.returncode == 0, f"{words}: {done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done.stdout


def commands(experiment: str) -> Any:
    """`mlflow`, as it is typed in a shell."""
    folder = Path(tempfile.mkdtemp())
    reported = {}
    created = typed("mlflow", "experiments", "create", "--experiment-name", f"{name}-typed")
    number = created.split()[-1]
    reported["created"] = created.replace(name, "E").replace(number, "N")  # the name may hold the number
    typed("mlflow", "experiments", "rename", "--experiment-id", number, "--new-name", f"{name}-renamed")
    reported["refused"] = subprocess.run(
        ["mlflow", "experiments", "create", "--experiment-name", name], capture_output=True, timeout=100
    ).returncode
    with mlflow.start_run(experiment_id=number, run_name="typed") as active:
        mlflow.log_metric("loss", 0.5)
        mlflow.log_param("rate", 0.1)
    run = active.info.run_id
    (folder / "some" / "ä b").mkdir(parents=True)
    (folder / "some" / "ä b" / "c.txt").write_text("é")
    (folder / "one.txt").write_text("one")
    typed("mlflow", "artifacts", "log-artifact", "--local-file", str(folder / "one.txt"), "--run-id", run)
    typed(
        "mlflow",
        "artifacts",
        "log-artifacts",
        "--local-dir",
        str(folder / "some"),
        "--run-id",
        run,
        "--artifact-path",
        "some",
    )
    reported["listed"] = [
        [one["path"], one["is_dir"]] for one in json.loads(typed("mlflow", "artifacts", "list", "--run-id", run))
    ]
    typed("mlflow", "artifacts", "download", "--run-id", run, "--dst-path", str(folder / "back"))
    reported["back"] = sorted(
        [str(path.relative_to(folder / "back")), path.read_text()] for path in (folder / "back").rglob("*.txt")
    )
    described = json.loads(typed("mlflow", "runs", "describe", "--run-id", run))
    reported["described"] = [
        described["info"]["status"],
        described["data"]["params"],
        own_metrics(described["data"]["metrics"]),
    ]
    typed("mlflow", "runs", "delete", "--run-id", run)
    reported["deleted"] = run in typed("mlflow", "runs", "list", "--experiment-id", number)
    typed("mlflow", "runs", "restore", "--run-id", run)
    reported["restored"] = run in typed("mlflow", "runs", "list", "--experiment-id", number)
    typed("mlflow", "experiments", "csv", "--experiment-id", number, "--filename", str(folder / "runs.csv"))
    columns = (folder / "runs.csv").read_text().splitlines()[0].split(",")
    reported["csv"] = sorted(one for one in columns if ".source.git." not in one)  # where this script lies
    typed("mlflow", "experiments", "delete", "--experiment-id", number)
    reported["gone"] = f"{name}-renamed" in typed("mlflow", "experiments", "search")
    typed("mlflow", "experiments", "restore", "--experiment-id", number)
    reported["again"] = f"{name}-renamed" in typed("mlflow", "experiments", "search")
    (folder / "project").mkdir()
    (folder / "project" / "MLproject").write_text(
        "name: tiny\nentry_points:\n  main:\n    parameters: {rate: {type: float, default: 1}}\n"
        f"    command: '{sys.executable} main.py {{rate}}'\n"
    )
    (folder / "project" / "main.py").write_text(
        "import mlflow, sys\nmlflow.log_metric('twice', 2 * float(sys.argv[1]))\n"
    )
    # set_experiment() has left the experiment in the environment
    typed("mlflow", "run", str(folder / "project"), "-P", "rate=4", "--env-manager", "local", "--run-name", "project")
    [result] = MlflowClient().search_runs([experiment], "attributes.run_name = 'project'")
    reported["project"] = [result.info.status, result.data.params, own_metrics(result.data.metrics)]
    return reported


def serve(experiment: str) -> Any:
    """A registered model behind its alias, by `mlflow models predict` and `mlflow models serve`."""
    import numpy
    from sklearn.linear_model import LinearRegression

    with mlflow.start_run():
        mlflow.sklearn.log_model(
            LinearRegression().fit(numpy.arange(6).reshape(6, 1), numpy.arange(6) * 2.0),
            name="model",
            registered_model_name=name,
            pip_requirements=["scikit-learn"],
            input_example=numpy.array([[1.0]]),
        )
    MlflowClient().set_registered_model_alias(name, "best", "1")
    folder = Path(tempfile.mkdtemp())
    asked = json.dumps({"inputs": [[10.0], [20.0]]})
    (folder / "asked.json").write_text(asked)
    model = ["--model-uri", f"models:/{name}@best", "--env-manager", "local"]
    typed(
        "mlflow",
        "models",
        "predict",
        *model,
        "--input-path",
        str(folder / "asked.json"),
        "--content-type",
        "json",
        "--output-path",
        str(folder / "predicted.json"),
    )
    notes = [rounded(json.loads((folder / "predicted.json").read_text()))]
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["mlflow", "models", "serve", *model, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    opened = build_opener(ProxyHandler({}))
    try:
        deadline = time.time() + 240
        while True:
            try:
                opened.open(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.time() < deadline, (folder / "log").read_text()[-3000:]
                time.sleep(0.5)
        for body in (asked, json.dumps({"inputs": "none"})):
            try:
                with opened.open(
                    Request(
                        f"http://127.0.0.1:{port}/invocations", body.encode(), {"Content-Type": "application/json"}
                    ),
                    timeout=60,
                ) as answer:
                    notes.append(rounded(json.load(answer)))
            except HTTPError as error:
                notes.append(error.code)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    return notes


if __name__ == "__main__":
    chosen = mlflow.set_experiment(name).experiment_id
    began = time.time()
    print("\n" + json.dumps({what: globals()[what](chosen)}, sort_keys=True))
    print(f"{time.time() - began:.1f} s", file=sys.stderr)
