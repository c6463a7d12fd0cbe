"""Certificates from a real ACME server: Caddy's own, as a program on this machine (tests/environment builds it); its challenges
come back over ports 80 and 443 of the address that the gateway is bound to."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Clone, require_docker
from tests.integration import inspection
from tests.netns import OtherHost
from tests.security.wire import Door

pytestmark = pytest.mark.docker
CONFIG = """{{
	admin off
	storage file_system {folder}/data
	skip_install_trust
	auto_https disable_redirects
}}
https://{address}:14000 {{
	bind {address}
	tls internal
	acme_server
}}
"""


def program() -> str:
    """Caddy of tests/environment, which may still be building it, or this machine's own; "" for none."""
    folder = Path(os.environ.get("TRACKBED_RIG_HOME", "/var/tmp/trackbed-rig"))
    end = time.monotonic() + 900
    while (folder / "authority.log").exists() and not list(folder.glob("authority/caddy-*")):
        assert time.monotonic() < end, (folder / "authority.log").read_text()[-500:]
        time.sleep(1)
    return str(next(iter(folder.glob("authority/caddy-*")), shutil.which("caddy") or ""))


@pytest.fixture(scope="module")
def authority(attacker: OtherHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The directory's URL and the CA's root certificate. The CA sits on this machine's end of the cable."""
    require_docker()
    caddy = program()
    if not caddy:
        pytest.skip("NOT TESTED: no program caddy on this machine")
    folder = tmp_path_factory.mktemp("acme")
    (folder / "Caddyfile").write_text(CONFIG.format(folder=folder, address=attacker.machine))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [caddy, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    root = folder / "data" / "pki" / "authorities" / "local" / "root.crt"
    try:
        inspection.until(root.exists, (folder / "log").read_text)
        yield f"https://{attacker.machine}:14000/acme/local/directory", root
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.mark.timeout(1800)
def test_an_address_gets_a_certificate(
    request: pytest.FixtureRequest,
    clone_factory: Callable[..., Clone],
    attacker: OtherHost,
    authority: tuple[str, Path],
) -> None:
    directory, root = authority
    clone = clone_factory("docker")
    request.addfinalizer(lambda: clone.invoke("down"))  # its ports 80 and 443 are not for the other tests
    clone.environment |= {
        "TRACKBED_BIND_ADDRESS": attacker.machine,
        "TRACKBED_ACME_CA": directory,
        "TRACKBED_ACME_ROOT": str(root),
    }
    done = clone.invoke("up", "--public", f"--public-address={attacker.machine}", "--certificates=acme", timeout=1500)
    assert done.returncode == 0, done.stderr + clone.invoke("logs", "gateway").stdout[-3000:]
    door = Door(attacker.machine, clone.ports["mlflow"], str(root))
    with attacker.entered():
        assert door.ask().status == 401
        with door.connect() as link:
            result = link.getpeercert()
        assert result and ("IP Address", attacker.machine) in result["subjectAltName"]
        redirected = Door(attacker.machine, 80, "").plain(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"308" in redirected
        with pytest.raises(ssl.SSLCertVerificationError):
            Door(attacker.machine, door.port, "/etc/ssl/certs/ca-certificates.crt").connect()
    assert "export MLFLOW_TRACKING_URI=https://" in clone.value("env")
