"""What a foreign backup says of users and secrets, where it is no JSON of ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from helpers.backups import restore, salvage
from helpers.errors import TrackbedError
from helpers.project import users

DEEP = b"[" * 200_000
WRONG = [DEEP, b'{"a": ' * 100_000, b"{", b"\xff", b"\x00"]


@pytest.mark.parametrize("content", WRONG)
def test_users_that_are_none(content: bytes) -> None:
    with pytest.raises(TrackbedError, match="no users"):
        users.imported(content)


@pytest.mark.parametrize("content", WRONG)
def test_secrets_that_are_none(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    rest: Any = SimpleNamespace()
    monkeypatch.setattr(salvage, "small", lambda rest, name: content)
    with pytest.raises(TrackbedError, match="no secrets"):
        restore._secrets(rest)
