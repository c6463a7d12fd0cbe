"""`invoke backup.passphrase`: another passphrase for an encrypted repository, whose content stays as it is."""

from __future__ import annotations

from collections.abc import Callable

from helpers.backups import encrypted, locations, repository_key
from helpers.errors import SettingError, TrackbedError
from helpers.project.project import Project


def change(project: Project, text: str, ask: Callable[[str], str]) -> str:
    """Ask for a new passphrase and have the place that ``text`` names open with that one alone; gives the place."""
    settings = project.settings
    if not text:
        raise SettingError("PLACE is missing: name a folder or s3://BUCKET/PREFIX, or write BACKUP_TO into .env.")
    place = locations.repository_at(settings, text)
    if not repository_key.is_encrypted(place):
        raise TrackbedError(
            f"{place} is not encrypted",
            "name a new place for encrypted backups: with BACKUP_PASSPHRASE in .env, `invoke backup --to=PLACE` makes "
            "one",
        )
    store = locations.target(settings, f"{place}/")  # refuses where root must not write, and another passphrase
    assert isinstance(store, encrypted.Encrypted)
    new = ask(f"New passphrase of {place}: ")
    if not new:
        raise TrackbedError(
            "there is no new passphrase; nothing was changed",
            "type it on a terminal, or let stdin be a file whose first line it is",
        )
    encrypted.change_passphrase(store, settings.reload({}, backup_passphrase=new).backup_passphrase)
    return str(place)
