"""What `invoke import` reads of a source, and what it does not: links, ways out, folders that nobody named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.backups.bucket import Bucket
from helpers.errors import SettingError, TrackbedError
from helpers.imports import places, sources
from helpers.imports.places import Location, Places
from helpers.imports.sources import FOLDER, SQLITE, Source
from tests.unit import test_archive, test_repository

RUN, MODEL = "a" * 32, "m-" + "b" * 32


def none(url: str) -> Bucket:
    raise AssertionError(url)


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "mlruns"
    put(
        root,
        "0/meta.yaml",
        f"0/{RUN}/meta.yaml",
        f"0/{RUN}/artifacts/model/data.bin",
        f"0/{RUN}/metrics/artifacts/loss",
        f"0/{RUN}/tags/artifacts",
        f"0/models/{MODEL}/meta.yaml",
        f"0/models/{MODEL}/artifacts/model.bin",
        "0/traces/tr-1/trace_info.yaml",
        "0/traces/tr-1/artifacts/traces.json",
        f".trash/7/{RUN}/meta.yaml",
        f".trash/7/{RUN}/artifacts/old.bin",
        "models/name/meta.yaml",
        "other/file",
    )
    return root


def run(uri: str, inside: str = f"0/{RUN}/artifacts", needed: bool = False) -> Location:
    return Location("run", RUN, "name", "experiment", uri, uri, f"1/{RUN}/artifacts", inside, needed)


def test_a_file_store_comes_without_artifacts_and_each_run_whole(store: Path) -> None:
    left: list[str] = []
    found = [file.path for file in sources.files(sources.source(str(store)), left)]
    assert found == [
        f"0/{RUN}/meta.yaml",
        f"0/{RUN}/metrics/artifacts/loss",
        f"0/{RUN}/tags/artifacts",
        "0/meta.yaml",
        f"0/models/{MODEL}/meta.yaml",
        "0/traces/tr-1/trace_info.yaml",
        f".trash/7/{RUN}/meta.yaml",
        "models/name/meta.yaml",
    ]
    assert left == []


def test_what_is_no_plain_file_is_named_and_not_followed(store: Path, tmp_path: Path) -> None:
    put(tmp_path, "secret/meta.yaml")
    (store / "0" / RUN / "link").symlink_to(tmp_path / "secret" / "meta.yaml")
    (store / "0" / "folder").symlink_to(tmp_path / "secret")
    (store / "9").symlink_to(tmp_path / "secret")
    os.mkfifo(store / "0" / RUN / "pipe")
    left: list[str] = []
    assert not [file for file in sources.files(Source(FOLDER, store), left) if "secret" in file.stream.read().decode()]
    assert sorted(left) == [f"0/{RUN}/link", f"0/{RUN}/pipe", "0/folder", "9"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("mssql+pyodbc://u:secret@h/db", "of databases on a server, PostgreSQL's and MySQL's are imported"),
        ("https://ann:secret@mlflow.example.org", "A login in the address would be seen"),
        ("http://[", "The server's address has another form"),
        ("https://mlflow.example.org/?token=secret", "The server's address has another form"),
        ("sqlite://relative.db", "an SQLite file is named as in"),
        ("/nonexistent/mlruns", "there is no such file or folder"),
    ],
)
def test_what_is_not_imported_yet_is_said_in_words(text: str, words: str) -> None:
    with pytest.raises(SettingError) as caught:
        sources.source(text)
    assert words in caught.value.message and "secret" not in caught.value.message


def test_a_file_that_is_no_source(tmp_path: Path, store: Path) -> None:
    put(tmp_path, "text.db", "empty/x")
    with pytest.raises(SettingError, match=r"is neither an SQLite database nor a whole backup"):
        sources.source(str(tmp_path / "text.db"))
    with pytest.raises(SettingError, match="has no experiments"):
        sources.source(str(tmp_path / "empty"))
    assert sources.source(str(tmp_path)).path == store  # the folder above is enough, as MLflow has it
    (tmp_path / "m.db").write_bytes(b"SQLite format 3\0")
    assert sources.source(f"sqlite:///{tmp_path / 'm.db'}") == Source(SQLITE, tmp_path / "m.db")


def test_for_a_backup_of_ours_the_command_is_named(tmp_path: Path) -> None:
    test_archive.write(tmp_path / "my lab.tar")
    test_repository.back_up(tmp_path / "vault", test_repository.Reads({}))
    for name, word in (("my lab.tar", f"'{tmp_path}/my lab.tar'"), ("vault", f"{tmp_path}/vault")):
        with pytest.raises(SettingError, match="is a backup of Trackbed") as caught:
            sources.source(str(tmp_path / name))
        assert (
            f"`invoke restore {word}`" in caught.value.hint and f"`invoke restore {word} --into=" in caught.value.hint
        )
    with pytest.raises(SettingError, match="a bucket is no source") as caught:
        sources.source("s3://bucket/lab")
    assert "`invoke restore s3://bucket/lab`" in caught.value.hint and "--artifacts=" in caught.value.hint


def test_a_database_that_is_written_to_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"SQLite format 3\0")
    (tmp_path / "mlflow.db-wal").write_bytes(b"wal")
    files = sources.files(Source(SQLITE, path), [])
    assert [next(files).path, next(files).path] == ["source.db", "source.db-wal"]
    (tmp_path / "mlflow.db-wal").write_bytes(b"wal and more")
    with pytest.raises(TrackbedError, match="was written to meanwhile"):
        next(files)


def test_artifacts_are_found_where_the_store_is_now(store: Path) -> None:
    survey = Places(Source(FOLDER, store), [], none).survey(
        [
            run(f"file:///gone/mlruns/0/{RUN}/artifacts"),
            run(f"/gone/mlruns/7/{RUN}/artifacts", f"7/{RUN}/artifacts"),
            run(f"/gone/mlruns/8/{RUN}/artifacts", f"8/{RUN}/artifacts"),  # has none
            run("s3://bucket/x", f"0/{RUN}/artifacts"),
            run(f"/gone/mlruns/8/{RUN}/artifacts", f"8/{RUN}/artifacts", needed=True),
            run("", f"0/{RUN}/artifacts"),
        ]
    )
    assert [(folder.path, folder.target) for folder in survey.folders] == [
        (f"0/{RUN}/artifacts", f"1/{RUN}/artifacts"),
        (f".trash/7/{RUN}/artifacts", f"1/{RUN}/artifacts"),
    ]
    assert (survey.objects, survey.largest) == (2, len(f"0/{RUN}/artifacts/model/data.bin"))
    assert [line.partition(": ")[2] for line in survey.missing] == [
        "s3://bucket/x is outside of what was named",
        f"{store}/.trash/8/{RUN}/artifacts: No such file or directory",
        "no location is outside of what was named",
    ]
    assert survey.missing[0].startswith(f"run {RUN} name of experiment experiment: ")


def test_beside_a_database_only_mlflows_own_folders_are_read(tmp_path: Path) -> None:
    put(tmp_path, "mlruns/1/a", "mlartifacts/1/b", ".ssh/id", "elsewhere/c")
    found = Places(Source(SQLITE, tmp_path / "mlflow.db"), [f"s3://bucket/x={tmp_path / 'elsewhere'}"], none)
    read = found.survey(
        [run(uri) for uri in ("./mlruns/1", "mlflow-artifacts:/1", f"{tmp_path}/mlruns/1", "s3://bucket/x")]
    )
    assert [folder.path for folder in read.folders] == ["mlruns/1", "mlartifacts/1", "mlruns/1", ""]
    assert not read.missing
    outside = (f"{tmp_path}/.ssh", f"{tmp_path}/mlruns/../.ssh", "./.ssh", "/etc", "s3://bucket/xy", "mlruns/../.ssh")
    refused = found.survey([run(uri) for uri in outside])
    assert not refused.folders and len(refused.missing) == len(outside)
    (tmp_path / "mlruns").rename(tmp_path / "moved")  # then nothing is known of a run's artifacts
    assert len(found.survey([run("./mlruns/1")]).missing) == 1


def test_mlflows_own_folders_that_are_links_are_not_read(tmp_path: Path) -> None:
    """Whoever may write beside the source would choose what is read."""
    put(tmp_path, "secrets/1/id", f"secrets/0/{RUN}/artifacts/id", "source/mlflow.db")
    for name in ("mlruns", "mlartifacts"):
        (tmp_path / "source" / name).symlink_to(tmp_path / "secrets")
    for chosen in (Source(SQLITE, tmp_path / "source" / "mlflow.db"), Source(FOLDER, tmp_path / "source" / "mlruns")):
        read = Places(chosen, [], none).survey([run("./mlruns/1"), run("mlflow-artifacts:/1")])
        assert not read.folders and len(read.missing) == 2, chosen
    with pytest.raises(SettingError, match="no file store"):
        sources.source(str(tmp_path / "source"))


def test_beside_a_servers_database_nothing_is_read_that_was_not_named(tmp_path: Path) -> None:
    put(tmp_path, "1/a")
    source = sources.source("postgresql://u@h/db")
    read = Places(source, [f"/srv={tmp_path}"], none).survey(
        [run("./mlruns/1"), run("mlflow-artifacts:/1"), run("/srv/1")]
    )
    assert [folder.path for folder in read.folders] == ["1"] and len(read.missing) == 2


def test_a_mapping_names_a_folder_that_is_there(tmp_path: Path) -> None:
    for text in ("x", f"={tmp_path}", f"s3://b={tmp_path}/nothing"):
        with pytest.raises(SettingError, match="--artifacts="):
            places.Mapping.parse(text, none)
    assert places.Mapping.parse(f"file:///a%20b/c/={tmp_path}", none).old == "/a b/c"
    assert places.Mapping.parse(f"s3://b/day=1={tmp_path}", none).old == "s3://b/day=1"


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    put(tmp_path, "file")
    with sources.opened(tmp_path) as handle:
        for file in sources.walk(handle):
            (tmp_path / "file").write_text("")
            with pytest.raises(TrackbedError, match="became shorter"):
                while places.Content(file).read(100):
                    pass


def test_a_source_that_cannot_be_read_is_told_in_words(tmp_path: Path, store: Path) -> None:
    chosen = sources.source(str(store))
    store.rename(tmp_path / "moved")
    with pytest.raises(TrackbedError, match="cannot be read: .*No such file or directory"):
        list(sources.files(chosen, []))
