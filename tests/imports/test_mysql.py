"""`invoke import` of a database of Oracle's MySQL, with the way to log in that it gives each user: over its socket, and
over the network with the certificates that it makes itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.claims import free_ports
from tests.conftest import ROOT, Clone
from tests.imports import served_source
from tests.integration import imported, inspection, source_servers

HERE = "127.0.0.1"


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    if not (source_servers.MYSQL_HOME / "bin" / "mysqld").exists():
        if not shutil.which("mvn"):
            pytest.skip("NOT TESTED: Oracle's MySQL comes from a Maven artifact, and there is no mvn")
        inspection.output(str(ROOT / "tests" / "environment" / "mysql.sh"), timeout=900)


@pytest.mark.parametrize("version", imported.VERSIONS)
def test_the_database_of_a_mysql_server_arrives(
    clone_factory: Callable[..., Clone], tmp_path: Path, version: str
) -> None:
    served_source.check(clone_factory("embedded"), version, tmp_path, source_servers.mysql, "mysql")


@pytest.mark.parametrize("way", ["caching_sha2_password", "sha256_password"])
def test_who_gets_the_password_over_the_network(clone_factory: Callable[..., Clone], tmp_path: Path, way: str) -> None:
    source, _ = imported.unpack("2.9", tmp_path)
    clone = clone_factory("embedded")
    clone.up()
    (port,) = free_ports(1)
    network = (f"--bind-address={HERE}", f"--port={port}")
    with source_servers.mysql(clone, source / "mlflow.db", *network) as folder:
        ca = tmp_path / "ca.pem"
        shutil.copy(folder / "data" / "ca.pem", ca)
        change = f"ALTER USER {source_servers.USER}@localhost IDENTIFIED WITH {way} BY '{source_servers.PASSWORD}'"

        def tried(query: str) -> tuple[int, str]:
            words = (f"mysql://{source_servers.USER}@{HERE}:{port}/source{query}", "--dry-run")
            mapped = f"--artifacts={imported.MADE}/2.9={source}"
            done = clone.invoke("import", *words, mapped, MYSQL_PWD=source_servers.PASSWORD)
            assert "Traceback" not in done.stderr and source_servers.PASSWORD not in done.stderr
            return done.returncode, done.stderr

        for query in ("", "?ssl_disabled=true"):  # nothing proves whose server it is
            source_servers.ask(folder, change)  # it forgets the password's hash
            code, said = tried(query)
            assert code == 1 and "clear text" in said and "ssl_ca" in said, said
        for query in (f"?ssl_ca={ca}", "?ssl_verify_cert=false", "?ssl_verify_cert=false&ssl_disabled=true"):
            source_servers.ask(folder, change)
            code, said = tried(query)
            assert code == 0, said
        code, said = tried("")
        if way == "caching_sha2_password":  # it remembers the hash, which is enough
            assert code == 0, said
        else:
            assert code == 1 and "clear text" in said, said
        source_servers.ask(folder, f"ALTER USER {source_servers.USER}@localhost REQUIRE SSL")
        code, said = tried(f"?ssl_ca={ca}")
        assert code == 0, said
        code, said = tried("?ssl_verify_cert=false&ssl_disabled=true")
        assert code == 1, said
