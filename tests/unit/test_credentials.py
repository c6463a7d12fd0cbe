"""Secrets: made once, private, the user's own win, never shown."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from helpers.errors import TrackbedError
from helpers.project.credentials import (
    FORMER,
    KEK_PASSPHRASE,
    NAMES,
    WEBHOOK_KEY,
    Credentials,
    ensure,
    forget,
    forget_former,
    learn,
    load,
    renew,
)
from helpers.settings import Settings

OWN = "my-own-password-1"


def settings(tmp: Path, env: str = "") -> Settings:
    clone = tmp / "clone"
    clone.mkdir(exist_ok=True)
    file = clone / ".env"
    file.write_text(env)
    file.chmod(0o600)
    return Settings.load({"state_dir": str(tmp / "state")}, {}, file, {})


def secrets(tmp: Path) -> Path:
    return tmp / "state" / "trackbed" / "secrets"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_made_once(tmp_path: Path) -> None:
    assert load(settings(tmp_path)).missing == NAMES
    assert not (tmp_path / "state").exists()
    first = ensure(settings(tmp_path))
    assert first.generated == NAMES == first.names and first.lost == () and first.missing == ()
    for name in NAMES:
        path = secrets(tmp_path) / name
        assert path.read_text() == first[name] and mode(path) == 0o600
        assert re.fullmatch(r"[A-Za-z0-9_-]+=?", first[name])
        assert len(first[name]) == {"S3_ACCESS_KEY": 20, WEBHOOK_KEY: 44}.get(name, 43)
    assert mode(secrets(tmp_path)) == 0o700
    assert sorted(p.name for p in secrets(tmp_path).iterdir()) == sorted(NAMES)
    again = ensure(settings(tmp_path))
    assert again == Credentials(first.values) == load(settings(tmp_path))


def test_two_projects_differ(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.mkdir()
    two.mkdir()
    assert not set(ensure(settings(one)).values.values()) & set(ensure(settings(two)).values.values())


def test_renewed(tmp_path: Path) -> None:
    before = ensure(settings(tmp_path))
    assert renew(settings(tmp_path)) == (before.values, ())
    after = load(settings(tmp_path))
    assert after.missing == () and not set(after.values.values()) & set(before.values.values())
    assert ensure(settings(tmp_path)) == after
    assert all(mode(secrets(tmp_path) / name) == 0o600 for name in NAMES)


def test_the_users_own_is_not_renewed(tmp_path: Path) -> None:
    own = settings(tmp_path, f"POSTGRES_PASSWORD={OWN}\n")
    before = ensure(own)
    renewed, kept = renew(own)
    assert kept == ("POSTGRES_PASSWORD",) and set(renewed) == set(NAMES) - set(kept)
    assert load(own)["POSTGRES_PASSWORD"] == OWN and load(own)["JUPYTER_TOKEN"] != before["JUPYTER_TOKEN"]


def test_keys_of_a_store_elsewhere_are_not_renewed(tmp_path: Path) -> None:
    external = settings(
        tmp_path,
        "OBJECT_STORE=external\nS3_ENDPOINT=https://s3.example.org\n"
        "S3_ACCESS_KEY=theirs-1\nS3_SECRET_KEY=theirs-secret-2\n",
    )
    ensure(external)
    external = settings(tmp_path, "OBJECT_STORE=external\nS3_ENDPOINT=https://s3.example.org\n")  # kept from before
    renewed, kept = renew(external)
    assert set(kept) == {"S3_ACCESS_KEY", "S3_SECRET_KEY"} and set(renewed) == set(NAMES) - set(kept)
    assert load(external)["S3_SECRET_KEY"] == "theirs-secret-2"


def test_the_users_value_wins_and_stays(tmp_path: Path) -> None:
    ensure(settings(tmp_path))
    own = ensure(settings(tmp_path, f"POSTGRES_PASSWORD={OWN}\n"))
    assert own["POSTGRES_PASSWORD"] == OWN and own.changed == ("POSTGRES_PASSWORD",) and own.generated == ()
    assert ensure(settings(tmp_path, f"POSTGRES_PASSWORD={OWN}\n")).changed == ()
    assert ensure(settings(tmp_path))["POSTGRES_PASSWORD"] == OWN


def test_lost_secrets_are_told(tmp_path: Path) -> None:
    first = ensure(settings(tmp_path))
    (secrets(tmp_path) / "POSTGRES_PASSWORD").unlink()
    (secrets(tmp_path) / "JUPYTER_TOKEN").write_text("")
    second = ensure(settings(tmp_path))
    assert second.lost == second.generated == ("POSTGRES_PASSWORD", "JUPYTER_TOKEN")
    assert second["POSTGRES_PASSWORD"] != first["POSTGRES_PASSWORD"]
    assert second["S3_SECRET_KEY"] == first["S3_SECRET_KEY"]
    assert ensure(settings(tmp_path)).lost == ()


def test_forget(tmp_path: Path) -> None:
    ensure(settings(tmp_path))
    forget(settings(tmp_path))
    assert not secrets(tmp_path).exists()
    forget(settings(tmp_path))
    assert ensure(settings(tmp_path)).lost == ()


def test_external_keys_never_become_our_stores_own(tmp_path: Path) -> None:
    external = "OBJECT_STORE=external\nS3_ENDPOINT=http://s3\nS3_ACCESS_KEY=theirs\nS3_SECRET_KEY=their-secret\n"
    first = ensure(settings(tmp_path, external))
    assert (first["S3_ACCESS_KEY"], first["S3_SECRET_KEY"]) == ("theirs", "their-secret")
    assert set(first.generated) == set(NAMES) - {"S3_ACCESS_KEY", "S3_SECRET_KEY"}
    without = external.replace("S3_SECRET_KEY=their-secret\n", "")
    assert ensure(settings(tmp_path, without))["S3_SECRET_KEY"] == "their-secret"
    ours = ensure(settings(tmp_path))
    assert ours["S3_SECRET_KEY"] != "their-secret" and ours.lost == () and ours.changed == ()


def test_too_open_files_are_closed(tmp_path: Path) -> None:
    ensure(settings(tmp_path))
    secrets(tmp_path).chmod(0o755)
    path = secrets(tmp_path) / "JUPYTER_TOKEN"
    path.chmod(0o644)
    assert load(settings(tmp_path)).repaired == (secrets(tmp_path), path)
    assert (mode(secrets(tmp_path)), mode(path)) == (0o700, 0o600)
    assert ensure(settings(tmp_path)).repaired == ()


def test_an_editors_newline_is_no_part_of_the_secret(tmp_path: Path) -> None:
    ensure(settings(tmp_path))
    (secrets(tmp_path) / "JUPYTER_TOKEN").write_text("a-token-of-mine-1234\n")
    assert ensure(settings(tmp_path))["JUPYTER_TOKEN"] == "a-token-of-mine-1234"


@pytest.mark.parametrize("content", [b"two words here", b"\xff" * 20, b"x" * 200, b"a\0b\0c", b"ab"])
def test_a_damaged_secret_is_said_and_kept(tmp_path: Path, content: bytes) -> None:
    ensure(settings(tmp_path))
    path = secrets(tmp_path) / "POSTGRES_PASSWORD"
    path.write_bytes(content)
    for call in (ensure, load):
        with pytest.raises(TrackbedError) as caught:
            call(settings(tmp_path))
        assert caught.value.message == f"{path} does not hold a secret (3 to 128 plain characters); it is damaged"
        assert caught.value.hint == f"restore it, or move it away to get a new one: mv {path} {path}.broken"
    assert path.read_bytes() == content


def test_links_folders_and_strangers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(settings(tmp_path))
    path = secrets(tmp_path) / "JUPYTER_TOKEN"
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(TrackbedError, match="is a link; a secret has to be a file of its own"):
        ensure(settings(tmp_path))
    path.unlink()
    path.mkdir()
    with pytest.raises(TrackbedError, match="JUPYTER_TOKEN is not a file"):
        ensure(settings(tmp_path))
    path.rmdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(TrackbedError, match=r"belongs to another user \(uid "):
        load(settings(tmp_path))
    monkeypatch.undo()
    secrets(tmp_path).rename(tmp_path / "moved")
    secrets(tmp_path).symlink_to(tmp_path / "moved")
    with pytest.raises(TrackbedError, match="is not a folder of Trackbed's"):
        load(settings(tmp_path))


def test_the_slower_of_two_takes_the_others_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets(tmp_path).mkdir(parents=True, mode=0o700)
    real = os.link

    def late(source: Path, target: Path) -> None:
        if not Path(target).exists():
            Path(target).write_text("the-faster-ones-value")
        real(source, target)

    monkeypatch.setattr(os, "link", late)
    assert set(ensure(settings(tmp_path)).values.values()) == {"the-faster-ones-value"}


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", never)
    created = ensure(settings(tmp_path))
    assert load(settings(tmp_path)).values == created.values
    assert sorted(p.name for p in secrets(tmp_path).iterdir()) == sorted(NAMES)


def test_render_and_hide() -> None:
    created = Credentials({"POSTGRES_PASSWORD": "{S3_SECRET_KEY}x", "S3_SECRET_KEY": "s3cret"})
    assert created.render("*:*:{POSTGRES_PASSWORD} {other} {S3_SECRET_KEY} {}", ("POSTGRES_PASSWORD",)) == (
        "*:*:{S3_SECRET_KEY}x {other} {S3_SECRET_KEY} {}"
    )
    assert created.render("{POSTGRES_PASSWORD}{S3_SECRET_KEY}", created.names) == "{S3_SECRET_KEY}xs3cret"
    assert created.render("{A}", ()) == "{A}"
    with pytest.raises(TrackbedError, match="the secret JUPYTER_TOKEN is missing"):
        created.render("{JUPYTER_TOKEN}", ("JUPYTER_TOKEN",))
    assert created.hide("login with s3cret failed") == "login with *** failed"


def test_values_are_never_shown(tmp_path: Path) -> None:
    created = ensure(settings(tmp_path, f"POSTGRES_PASSWORD={OWN}\n"))
    for value in created.values.values():
        assert value not in repr(created) and value not in str(created)


def test_what_rows_were_encrypted_with_is_kept_until_they_are_encrypted_anew(tmp_path: Path) -> None:
    first = ensure(settings(tmp_path))
    assert set(first.former.values()) == {""}
    renew(settings(tmp_path))
    renew(settings(tmp_path))  # the first one was interrupted
    second = ensure(settings(tmp_path))
    kept = second.former[FORMER + KEK_PASSPHRASE].split()
    assert kept[0] == first[KEK_PASSPHRASE] and len(kept) == 2 and second[KEK_PASSPHRASE] not in kept
    assert mode(secrets(tmp_path) / (FORMER + KEK_PASSPHRASE)) == 0o600
    assert second.render("{" + FORMER + WEBHOOK_KEY + "}", [FORMER + WEBHOOK_KEY]).split()[0] == first[WEBHOOK_KEY]
    assert not any(name.startswith(FORMER) for name in second.names)
    own = ensure(settings(tmp_path, f"{KEK_PASSPHRASE}=a-passphrase-of-my-own\n"))
    assert own.former[FORMER + KEK_PASSPHRASE].split() == [*kept, second[KEK_PASSPHRASE]]
    forget_former(settings(tmp_path))
    assert set(ensure(settings(tmp_path)).former.values()) == {""}


def test_the_keys_of_a_backup_are_learnt(tmp_path: Path) -> None:
    mine = ensure(settings(tmp_path))
    learn(
        settings(tmp_path),
        {
            KEK_PASSPHRASE: "theirs-and-long-enough",
            WEBHOOK_KEY: mine[WEBHOOK_KEY],
            "JUPYTER_TOKEN": "not-taken-over",
            "odd": None,
        },
    )
    after = ensure(settings(tmp_path))
    assert after.values == mine.values
    assert after.former == {FORMER + KEK_PASSPHRASE: "theirs-and-long-enough", FORMER + WEBHOOK_KEY: ""}
    learn(settings(tmp_path), {KEK_PASSPHRASE: "two\nlines"})
    assert ensure(settings(tmp_path)).former == after.former
