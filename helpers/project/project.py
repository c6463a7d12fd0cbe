"""One project: its settings, remembered state and secrets, handed to an engine as one thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from helpers import digests
from helpers.project.credentials import MLFLOW_TOKEN, Credentials, ensure, load
from helpers.project.state import State
from helpers.settings import Settings

AUTO, OPEN, TOKEN = "auto", "open", "token"  # of LOCAL_ACCESS


@dataclass
class Project:
    """What an engine is made from. ``credentials`` are generated at first use, never before."""

    settings: Settings
    state: State
    dry_run: bool = False  # only the commands are wanted: the machine need not have the GPU
    bundle: Path | None = None  # the file of `invoke bundle` that a start takes everything from
    aside: bool = False  # beside the clone's own project, which .env goes on naming
    replaced: Mapping[str, str] = field(default_factory=dict, repr=False)  # secrets until now, to prove that they end
    _credentials: Credentials | None = None

    def credentials(self) -> Credentials:
        if self._credentials is None:
            self._credentials = ensure(self.settings)
        return self._credentials

    def only_look(self) -> None:
        """Take the secrets as they are: from now on none is made, and none that was given is kept."""
        self._credentials = load(self.settings)

    def reread_credentials(self) -> None:
        """Read them again at the next use: the files have changed."""
        self._credentials = None

    @property
    def notebook_only(self) -> bool:
        """Whether MLflow's server is a remote one, so that the notebook is the only service."""
        return bool(self.settings.tracking_uri)

    @property
    def is_public(self) -> bool:
        """Whether other machines reach the services, through the gateway."""
        return self.settings.public and not self.notebook_only

    @property
    def asks(self) -> bool:
        """Whether MLflow asks for its token here. What LOCAL_ACCESS=auto means was decided by `up`."""
        if self.notebook_only:
            return False  # there is no server of ours
        if self.is_public:
            return True  # the gateway adds it behind its logins: nobody comes past them to the container's own address
        settings = self.settings
        chosen = settings.local_access if settings.local_access != AUTO else self.state.access.get("mode", OPEN)
        return chosen == TOKEN

    def access_token(self) -> str:
        """What MLflow's clients have to send, "" where it asks for nothing."""
        return self.credentials().values.get(MLFLOW_TOKEN, "") if self.asks else ""  # none before the first `up`

    def credentials_digest(self) -> str:
        """Changes when a secret changes or MLflow begins to ask for its own; one hash over all of them, so it cannot be
        searched for a single weak one. "" for a dry run, which has none."""
        if self.dry_run:
            return ""
        result = self.credentials()
        return digests.digest("".join(result[name] for name in result.names), self.asks)
