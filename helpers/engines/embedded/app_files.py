"""What root puts into the state folder for the services: their code, start-up files, certificates and secrets."""

from __future__ import annotations

import os
from pathlib import Path

from helpers import clone, database_settings, safe_files
from helpers.engines import database_roles, jupyterlab
from helpers.engines.embedded.accounts import ROLE_OF
from helpers.engines.embedded.deployment import EmbeddedComponent
from helpers.project import server_secrets
from helpers.service_accounts import DATABASE, SERVER

SCRIPTS = ("launch.py", "overlay.py")  # of this package


class AppFiles(EmbeddedComponent):
    def put(self) -> None:
        # copies: the clone may lie where the services cannot look, and may go away while they run
        for source, target in self._copies():
            if target.suffix == ".py":
                safe_files.remove(target.with_suffix("") / "__init__.py")  # an earlier version's package would hide it
            for folder in reversed(target.relative_to(self.deployment.app).parents[:-1]):
                safe_files.own_folder(self.deployment.app / folder, 0o755)
            _put(target, source.read_bytes(), 0o644)
        if self.deployment.certificates:
            _put(self.deployment.app / jupyterlab.CERTIFICATES, self.deployment.certificates.encode(), 0o644)
        credentials = self.project.credentials()
        for secret in self.deployment.secret_files():
            account = self.layout.accounts.get(ROLE_OF[secret.service])
            content = credentials.render(secret.template, secret.names).encode()
            _put(Path(secret.volume) / secret.path, content, 0o400, account.pw_uid, account.pw_gid)

        if self.deployment.start_page:
            self.put_start_page(self.deployment.start_page)

    def put_start_page(self, content: bytes) -> None:
        account = self.layout.accounts.get(SERVER)
        _put(self.deployment.secrets / server_secrets.START_PAGE, content, 0o400, account.pw_uid, account.pw_gid)

    def remove_others(self) -> None:
        """Remove an earlier version's modules, which its server imported as long as it ran, and its other files."""
        app, targets = self.deployment.app, [target for _, target in self._copies()]
        kept = {*targets, *(target.parent for target in targets)}
        for path in (*app.rglob("*.py"), *app.rglob("*.dist-info"), *app.rglob("*.ipynb")):
            if path not in kept:
                safe_files.remove(path)

    def _copies(self) -> list[tuple[Path, Path]]:
        """Each file and where it goes."""
        app, here = self.deployment.app, Path(__file__).parent
        return [
            *((path, app / path.relative_to(clone.MLFLOW_FOLDER)) for path in clone.server_files()),
            *((here / name, app / name) for name in SCRIPTS),
            *((path, self.deployment.startup / name) for name, path in clone.notebook_files().items()),
        ]

    def put_database_access(self) -> None:
        """Which accounts of this machine come in as which role of PostgreSQL: it asks the kernel who connects.

        There are no passwords, and nobody comes over the network. The files are not among the database's own: whoever
        gets hold of its account must not be able to let others in.
        """
        accounts = self.layout.accounts
        roles: dict[str, tuple[str, ...]] = {accounts.name(SERVER): (database_settings.USER,)}
        roles |= dict.fromkeys((accounts.name(DATABASE), "root"), database_roles.ROLES)  # of a normal user, the same
        files = {
            "pg_hba.conf": "local all all peer map=trackbed\n",
            "pg_ident.conf": "".join(f'trackbed "{name}" {role}\n' for name in roles for role in roles[name]),
        }
        for name, content in files.items():
            _put(self.deployment.app / name, content.encode(), 0o644)


def _put(path: Path, content: bytes, mode: int, uid: int = -1, gid: int = -1) -> None:
    if not safe_files.is_file(path, content, mode, os.geteuid() if uid < 0 else uid):
        safe_files.write(path, content, mode, uid, gid)
