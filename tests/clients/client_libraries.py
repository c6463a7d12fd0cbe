"""Run by a client's Python: what libraries log by themselves, and what came back of it as JSON.

Arguments: an experiment of its own and one of `opentelemetry`, `sklearn`, `optuna`. MLFLOW_TRACKING_URI is set.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time

import mlflow
from mlflow.tracking import MlflowClient

name, what = sys.argv[1:]
uri = os.environ["MLFLOW_TRACKING_URI"]


def opentelemetry(experiment):
    """The OTLP exporter of OpenTelemetry's own SDK, as an application that knows nothing of MLflow would use it."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import Compression, OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    for packed in (Compression.NoCompression, Compression.Gzip, Compression.Deflate):
        exporter = OTLPSpanExporter(endpoint=f"{uri}/v1/traces", headers={"x-mlflow-experiment-id": experiment},
                                    compression=packed)
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
    return sorted([len(trace.data.spans), next(span.name for span in trace.data.spans if span.parent_id is None),
                   len({span.parent_id for span in trace.data.spans})] for trace in traces)


def sklearn(experiment):
    import numpy
    from sklearn.linear_model import LogisticRegression

    mlflow.sklearn.autolog()
    data = numpy.arange(40.0).reshape(20, 2)
    LogisticRegression(C=0.5).fit(data, numpy.arange(20) % 2)
    client = MlflowClient()
    run = client.search_runs([experiment])[0]
    model = mlflow.sklearn.load_model(f"runs:/{run.info.run_id}/model")
    return [run.info.status, run.data.params, sorted(run.data.metrics),
            sorted(one.path for one in client.list_artifacts(run.info.run_id)), model.predict(data).tolist()]


def trials(storage):
    import optuna
    from optuna_integration import MLflowCallback

    study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=5,
                   callbacks=[MLflowCallback(tracking_uri=uri, metric_name="square", create_experiment=False)])


def optuna(experiment):
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
    return [[worker.exitcode for worker in workers], len(runs), {run.info.status for run in runs} == {"FINISHED"},
            sorted(run.data.metrics["square"] for run in runs) == sorted(values.values())]


if __name__ == "__main__":
    chosen = mlflow.set_experiment(name).experiment_id
    began = time.time()
    print("\n" + json.dumps({what: globals()[what](chosen)}, sort_keys=True))
    print(f"{time.time() - began:.1f} s", file=sys.stderr)
