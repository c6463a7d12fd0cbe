"""The volumes of a project: whose they are, what is put into them, and what is deleted with the data."""

from __future__ import annotations

import json
from functools import cached_property

from helpers.engines import container_secrets, gateway_spec, jupyterlab, streaming
from helpers.engines.docker import compose_model
from helpers.engines.docker.client import LABEL, FileEntry
from helpers.engines.docker.deployment import DockerComponent
from helpers.project import server_secrets, workspace_folder
from helpers.services import GATEWAY, MLFLOW, DataItem, ProgressReporter

ACTIVE = "live.json"  # the pointer of the state file, kept with the data as well


class Volumes(DockerComponent):
    """Those of one project, by their labels."""

    def names(self) -> tuple[str, ...]:
        """Every volume that a project of this name has, or had with other settings."""
        # also what is not part of the plan now: a notebook for a remote tracking server has one volume
        names = [v.name for v in compose_model.every_volume(self.deployment)]
        # stores used earlier are data of this project too
        names += [
            f"{self.settings.project}_{s}"
            for s in ("minio", "versitygw", "gateway", "secrets-gateway", "secrets-store")
        ]
        return tuple(dict.fromkeys(names))

    @cached_property
    def owned(self) -> frozenset[str]:
        """The volumes of any Trackbed project of this name."""
        result = self.api.volumes(self.names())
        return frozenset(name for name, labels in result.items() if labels.get(f"{LABEL}.instance"))

    def make(self, image: str) -> bool:
        """Create missing volumes, set owners, write the secret files, through a container of ``image`` never started.

        True when the database's volume was there.
        """
        existing = self.api.volumes(v.name for v in self.deployment.volumes())
        labels = {f"{LABEL}.instance": self.project.state.instance, f"{LABEL}.project": self.settings.project}
        roots: dict[str, tuple[int, int, int]] = {}
        files: dict[str, list[FileEntry]] = {}
        for volume in self.deployment.volumes():
            if volume.name not in existing:
                self.api.create_volume(volume.name, labels)
            elif not volume.secret:
                continue
            roots[volume.name] = (volume.uid, volume.gid, volume.mode)
        credentials = self.project.credentials()
        for secret in self.deployment.secret_files():
            content = credentials.render(secret.template, secret.names).encode()
            files.setdefault(secret.volume, []).append(
                FileEntry(secret.path, content, secret.uid, secret.gid, secret.mode)
            )
        files.setdefault(f"{self.settings.project}_secrets-jupyter", []).extend(self._certificate_files())
        if self.deployment.is_public:
            name, own = f"{self.settings.project}_secrets-gateway", self._gateway_files()
            files[name] = [e for e in files[name] if e.path not in {one.path for one in own}] + own
        if not self.deployment.notebook_only:
            active = {key: self.project.state.active[key] for key in ("database", "prefix")}
            active["store"] = self.deployment.object_store
            files[self._server].append(
                FileEntry(ACTIVE, json.dumps(active).encode(), *container_secrets.UIDS[MLFLOW], 0o400)
            )
            if page := self.deployment.start_page:
                files[self._server].append(self._start_page(page))
        self.__dict__.pop("own", None)
        self.api.fill(image, roots, files)
        return f"{self.settings.project}_postgres" in existing

    def _certificate_files(self) -> list[FileEntry]:
        """The site's certificates for the notebook. Not among the secrets: other ones do not start it again."""
        if not self.deployment.certificates:
            return []
        uid = self.deployment.owner
        return [
            FileEntry(jupyterlab.CERTIFICATES, self.deployment.certificates.encode(), uid, workspace_folder.GID, 0o444)
        ]

    def _gateway_files(self) -> list[FileEntry]:
        owner = container_secrets.UIDS[GATEWAY]
        return [FileEntry(path, text, *owner, 0o400) for path, text in gateway_spec.files(self.settings).items()]

    def put_users(self) -> None:
        """Hand the users to the gateway, which looks at their file all the time. Nothing where there is no gateway."""
        name = f"{self.settings.project}_secrets-gateway"
        if self.api.volumes([name]):
            self.api.fill(
                self.settings.mlflow_image,
                {name: (*container_secrets.UIDS[GATEWAY], 0o700)},
                {name: self._gateway_files()},
            )

    @property
    def _server(self) -> str:
        return f"{self.settings.project}_secrets-{MLFLOW}"

    @staticmethod
    def _start_page(content: bytes) -> FileEntry:
        return FileEntry(server_secrets.START_PAGE, content, *container_secrets.UIDS[MLFLOW], 0o400)

    def put_start_page(self, content: bytes) -> None:
        self.api.fill(
            self.settings.mlflow_image,
            {self._server: (*container_secrets.UIDS[MLFLOW], 0o700)},
            {self._server: [self._start_page(content)]},
        )

    def adopt(self) -> bool:
        """Make the state's what the volumes remember of a state folder that was lost; False where nothing is clear."""
        if owner := self.owner():
            self.project.state.instance = owner
            self.project.state.active.update(self.read_active_pointer())
        return bool(owner)

    def owner(self) -> str | None:
        """The instance id that the existing data volumes carry, if they carry one and the same."""
        owners = {
            labels.get(f"{LABEL}.instance")
            for labels in self.api.volumes(v.name for v in self.deployment.volumes()).values()
        }
        owners.discard(None)
        return owners.pop() if len(owners) == 1 else None

    def read_active_pointer(self) -> dict[str, str]:
        """The active database, prefix and store, as the volumes remember them for a lost state folder; {} if not."""
        volume, image = self._server, self.settings.mlflow_image
        if not self.api.volumes([volume]) or self.api.image(image) is None:
            return {"store": "minio"} if self.api.volumes([f"{self.settings.project}_minio"]) else {}
        try:
            data = json.loads(self.api.read_file(image, volume, ACTIVE))
            active = {key: str(data[key]) for key in ("database", "prefix")}
            return active | {"store": str(data.get("store", "minio"))}  # MinIO was the default of earlier releases
        except (ValueError, KeyError, TypeError):
            return {}

    def data(self) -> tuple[DataItem, ...]:
        what = {
            "postgres": "database: experiments, runs, parameters, metrics, registered models",
            "gateway": "certificates of the gateway, and its own CA",
            "minio": "artifacts (MinIO)",
            "versitygw": "artifacts (VersityGW)",
            "mlflow-tmp": "upload buffers",
        }
        result = self.api.volumes(self.names())
        mine = [n for n, labels in result.items() if labels.get(f"{LABEL}.instance") == self.project.state.instance]
        prefix = len(self.settings.project) + 1
        return tuple(DataItem(f"volume {n}", what.get(n[prefix:], "generated secrets")) for n in sorted(mine))

    def remove(self, progress: ProgressReporter) -> None:
        for item in self.data():
            progress.step(f"removing {item.name}")
            with streaming.ticking(
                lambda seconds, name=item.name: progress.step(  # type: ignore[misc]
                    f"removing {name}, for {seconds:.0f} s"
                )
            ):
                self.api.remove_volume(item.name.removeprefix("volume "))
