"""`invoke import` of a database whose server is reached over TLS alone, with a certificate of a private CA."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.claims import free_ports
from tests.conftest import USER as OWNER
from tests.conftest import Clone
from tests.integration import imported, source_servers, tls_proxy

HERE = "127.0.0.1"
SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"  # what a client of PostgreSQL sends first where it wants TLS


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def encrypted(place: Path, certificate: tuple[Path, Path]) -> Iterator[int]:
    """A port that takes PostgreSQL's clients over TLS, which the wheel's server does not speak, and no others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    listening = socket.create_server((HERE, 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listening.accept()[0],), daemon=True).start()

    def one(client: socket.socket) -> None:
        with suppress(OSError), client, socket.socket(socket.AF_UNIX) as server:
            if client.recv(8, socket.MSG_WAITALL) != SSL_REQUEST:
                return
            client.sendall(b"S")
            with context.wrap_socket(client, server_side=True) as inner:
                server.connect(str(place))
                back = threading.Thread(target=_forward, args=(server, inner), daemon=True)
                back.start()
                _forward(inner, server)
                back.join(60)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.close()


def test_a_postgresql_server_over_tls(clone_factory: Callable[..., Clone], tmp_path: Path) -> None:
    source, expected = imported.unpack("3.0", tmp_path)
    ca, other = (tls_proxy.authority(tmp_path / name) for name in ("ca", "other"))
    clone = clone_factory("embedded")
    clone.up()
    with (
        source_servers.postgresql(clone, source / "mlflow.db") as server,
        encrypted(server.folder / ".s.PGSQL.5432", tls_proxy.certificate(ca, HERE)) as port,
    ):
        address = f"postgresql://{source_servers.USER}@{HERE}:{port}/source"
        mapped = f"--artifacts={imported.MADE}/3.0={source}"
        given = {"PGPASSWORD": source_servers.PASSWORD}
        for query in ("sslmode=disable", f"sslmode=verify-full&sslrootcert={other}"):
            refused = clone.invoke("import", f"{address}?{query}", mapped, "--dry-run", around=given)
            assert refused.returncode == 1 and "cannot be read" in refused.stderr, refused.stderr
            assert "Traceback" not in refused.stderr and source_servers.PASSWORD not in refused.stderr
        around = {**given, "PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(ca)}
        shown = clone.invoke("import", address, mapped, "--dry-run", around=around)
        assert shown.returncode == 0, shown.stderr
        done = clone.invoke("import", f"{address}?sslmode=verify-full&sslrootcert={ca}", mapped, around=given)
        assert done.returncode == 0 and done.stdout == shown.stdout, done.stderr
        runs = dict(line.rsplit(None, 1) for line in done.stdout.splitlines()[1:])["runs"]
        assert int(runs) == len(expected["sqlite"]["runs"])


@pytest.mark.skipif(
    not shutil.which("mariadbd", path="/usr/sbin:/usr/bin"),
    reason="NOT TESTED: no MariaDB (Debian: apt install mariadb-server-core mariadb-client-core)",
)
def test_a_mariadb_server_over_tls(clone_factory: Callable[..., Clone], tmp_path: Path) -> None:
    source, _ = imported.unpack("2.9", tmp_path)
    ca, other = (tls_proxy.authority(tmp_path / name) for name in ("ca", "other"))
    certificate, key = tls_proxy.certificate(ca, HERE)
    if os.geteuid() == 0:  # the server runs as a normal user
        account = pwd.getpwnam(OWNER)
        os.chown(key, account.pw_uid, account.pw_gid)
        for path in (*key.parents, key):
            if path.is_relative_to(tmp_path.parent.parent):
                path.chmod(path.stat().st_mode | 0o111)
    (port,) = free_ports(1)
    options = (f"--bind-address={HERE}", f"--port={port}", f"--ssl-cert={certificate}", f"--ssl-key={key}")
    clone = clone_factory("embedded")
    clone.up()
    with source_servers.mariadb(clone, source / "mlflow.db", *options) as folder:
        source_servers.ask(folder, f"ALTER USER {source_servers.USER}@localhost REQUIRE SSL")
        address = f"mysql://{source_servers.USER}@{HERE}:{port}/source"
        mapped = f"--artifacts={imported.MADE}/2.9={source}"
        for query in ("ssl_disabled=true", f"ssl_ca={other}"):
            refused = clone.invoke(
                "import", f"{address}?{query}", mapped, "--dry-run", MYSQL_PWD=source_servers.PASSWORD
            )
            assert refused.returncode == 1 and "Traceback" not in refused.stderr, refused.stderr
            assert source_servers.PASSWORD not in refused.stderr
        verified = f"{address}?ssl_ca={ca}&ssl_verify_identity=true"
        for words in ([address], [verified]):
            shown = clone.invoke("import", *words, mapped, "--dry-run", MYSQL_PWD=source_servers.PASSWORD)
            assert shown.returncode == 0, shown.stderr
        done = clone.invoke("import", verified, mapped, MYSQL_PWD=source_servers.PASSWORD)
        assert done.returncode == 0 and done.stdout == shown.stdout, done.stderr
