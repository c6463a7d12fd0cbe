"""What `invoke gc` may remove: folders that MLflow makes, none that is needed (trackbed_mlflow/garbage_collection.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trackbed_mlflow import durability, garbage_collection, multipart_uploads, s3_objects
from trackbed_mlflow.errors import FAILED, Stop
from trackbed_mlflow.s3_objects import S3Objects

RUN, MODEL, TRACE = "1" * 32, "m-" + "2" * 32, "tr-" + "3" * 32


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        (f"1/{RUN}/artifacts/a/b", f"1/{RUN}"),
        (f"1/models/{MODEL}/artifacts/MLmodel", f"1/models/{MODEL}"),
        (f"1/traces/{TRACE}/artifacts/traces.json", f"1/traces/{TRACE}"),
        (f"{RUN}/artifacts/a", RUN),
        (f"team/x/{RUN}/artifacts/1/{'4' * 32}/artifacts/a", f"team/x/{RUN}"),
        (f"1/{RUN}/other/a", None),
        (f"1/{RUN}", None),
        ("1/notes.txt", None),
        (f"1/{RUN}0/artifacts/a", None),
        (f"1/{RUN.replace('1', 'A')}/artifacts/a", None),
    ],
)
def test_the_folder_of_a_file(name: str, folder: str | None) -> None:
    match = garbage_collection.FOLDER.match(name)
    assert (match["path"] if match else None) == folder


@pytest.fixture(autouse=True)
def without_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        garbage_collection, "_ask", lambda connection, statement, **words: connection.execute(statement, words)
    )


class Connection:
    """Answers the questions for versions and for odd locations."""

    def __init__(self, *versions: str, odd: str = "") -> None:
        self.rows = {
            garbage_collection.VERSIONS: [(uri, None) for uri in versions],
            garbage_collection.ODD[0]: [(odd,)] if odd else [],
        }

    def execute(self, statement: Any, words: Any) -> Any:
        return self.rows.get(statement, [])


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        (f"mlflow-artifacts:/1/{RUN}/artifacts/model", f"1/{RUN}"),
        (f"mlflow-artifacts:/1/{RUN}/artifacts", f"1/{RUN}"),
        (f"mlflow-artifacts:/1/models/{MODEL}/artifacts", f"1/models/{MODEL}"),
        ("mlflow-artifacts:/1", f"1/{RUN}"),
        (f"mlflow-artifacts:/1/{RUN}", f"1/{RUN}"),
    ],
)
def test_what_a_registered_version_needs_stays(uri: str, folder: str) -> None:
    assert garbage_collection.Needed(Connection(uri)).holds(folder)
    assert garbage_collection.Needed(Connection(odd=uri)).holds(folder)
    assert not garbage_collection.Needed(Connection(uri)).holds(f"2/{'4' * 32}")


@pytest.mark.parametrize("uri", [f"models:/{MODEL}", f"models:/{MODEL}/part", f"runs:/{MODEL}/model"])
def test_a_version_that_names_a_run_or_a_model(uri: str) -> None:
    assert garbage_collection.Needed(Connection(uri)).ids == {MODEL}


@pytest.mark.parametrize("uri", ["s3://other/1/x", "file:///srv/1", "mlflow-artifacts://host/1/x", "", "name"])
def test_other_locations_protect_nothing_here(uri: str) -> None:
    assert garbage_collection.path_of(uri) == "" and not garbage_collection.Needed(Connection(uri or "x")).paths


def test_an_experiment_below_a_folder_that_looks_like_a_run() -> None:
    needed = garbage_collection.Needed(Connection())
    needed.location(f"a/{RUN}/artifacts/mine")
    assert needed.holds(f"a/{RUN}") and not needed.holds(f"a/{'4' * 32}")


@pytest.mark.parametrize(("age", "seconds"), [("30d", 2592000), ("1d12h", 129600), ("0s", 0)])
def test_ages(age: str, seconds: int) -> None:
    assert garbage_collection.seconds(age) == seconds
    with pytest.raises(Stop):
        garbage_collection.seconds(f"{age}x")


def test_the_journal_of_the_stores_disk_is_told_what_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the token, or an unclean stop would report as missing what was removed on purpose."""

    class Bucket(S3Objects):
        def drop(self, folder: str = "") -> int:
            return 0

    notes: list[dict[str, object]] = []
    token = tmp_path / "token"
    token.write_text("hush\n")
    monkeypatch.setattr(durability, "ask", lambda address, **words: notes.append({"at": address, **words}))
    environment = {"TRACKBED_STORE_SYNC": "store-sync:1", durability.TOKEN_FILE: str(token)}
    garbage_collection._remove_folders(environment, Bucket(None, "b", "live"), [f"1/{RUN}"])
    assert notes == [{"at": "store-sync:1", "bucket": "b", "removed": f"live/1/{RUN}", "token": "hush"}]


def test_a_store_that_removes_one_at_a_time_is_asked_once_for_more_and_not_by_each_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = {f"live/1/{run}/artifacts/{name}" for run in ("a", "b", "c") for name in ("x", "y")}
    many: list[Any] = []

    class Client:
        def list_objects_v2(self, Prefix: str, **_: str) -> dict[str, Any]:  # noqa: N803
            return {"Contents": [{"Key": key} for key in sorted(held) if key.startswith(Prefix)]}

        def delete_objects(self, **given: Any) -> None:
            many.append(given)
            raise Stop(FAILED, "NotImplemented")

        def delete_object(self, Key: str, **_: str) -> dict[str, Any]:  # noqa: N803
            held.discard(Key)
            return {}

    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(multipart_uploads, "end_below", lambda *_: 0)
    garbage_collection._remove_folders({}, S3Objects(Client(), "b", "live"), ["1/a", "1/b"])
    assert held == {"live/1/c/artifacts/x", "live/1/c/artifacts/y"} and len(many) == 1
