"""The metadata service of the cloud that this machine runs in: one request to it, and the public address it names.

AWS, OpenStack (Chameleon among others), Google and Azure answer on one link-local address, each in its own way:
OpenStack says 200 with nothing in it where there is no floating IP, AWS wants a token first and says 404, a captive
portal answers with a page. Only what is an IP address counts.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass

SERVICE = ("169.254.169.254", 80)
CONNECT, READ = 1.0, 2.0  # seconds; off a cloud nobody answers
AZURE = "/metadata/instance/network/interface/0/ipv4/ipAddress/0/publicIpAddress?api-version=2021-02-01&format=text"
GOOGLE = "/computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip"

GOOGLE_HEADERS = {"Metadata-Flavor": "Google", "Host": "metadata.google.internal"}
MOST = 4096  # bytes of an answer


@dataclass(frozen=True)
class PublicAddress:
    """An address and whose service told it; ``address`` "" when none did, then ``why`` says what was tried."""

    address: str = ""
    cloud: str = ""
    why: str = ""


class Silent(OSError):
    """Nobody answers there: no use in asking for the other clouds."""


def public_address(service: tuple[str, int] = SERVICE) -> PublicAddress:
    """The public IPv4 address that a metadata service names. Bounded: about 1 s where there is no service."""
    heard = []
    try:
        token = session_token(service)
        asks: list[tuple[str, str, str, Mapping[str, str]]] = [
            ("AWS or OpenStack", "GET", "/latest/meta-data/public-ipv4", aws_headers(token)),
            ("Google", "GET", GOOGLE, GOOGLE_HEADERS),
            ("Azure", "GET", AZURE, {"Metadata": "true"}),
        ]
        for cloud, method, path, headers in asks:
            status, text = ask(service, method, path, headers)
            if status == 200 and (address := _address(text)):
                return PublicAddress(address, cloud)
            heard.append(f"{cloud}: {_said(status, text)}")
    except OSError:
        return PublicAddress(why=f"no metadata service answers at {service[0]}")
    return PublicAddress(why=f"the metadata service names no public address ({'; '.join(heard)})")


def session_token(service: tuple[str, int]) -> str:
    """AWS hands out a session token for a PUT; the others refuse or do not know it."""
    status, text = ask(service, "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    text = text.strip()
    return text if status == 200 and text.isascii() and text.isprintable() and 0 < len(text) < 500 else ""


def aws_headers(token: str) -> dict[str, str]:
    return {"X-aws-ec2-metadata-token": token} if token else {}


def ask(
    service: tuple[str, int], method: str, path: str, headers: Mapping[str, str], most: int = MOST
) -> tuple[int, str]:
    """One request, never through a proxy and without following redirects. (0, reason) for a broken answer.

    Raises Silent, an OSError, where nobody answers.
    """
    try:
        link = socket.create_connection(service, CONNECT)
    except OSError as error:
        raise Silent(str(error)) from None
    connection = http.client.HTTPConnection(*service, timeout=READ)
    with link:
        link.settimeout(READ)
        watch = threading.Timer(READ, link.shutdown, (socket.SHUT_RDWR,))  # also for an answer that only trickles
        watch.daemon = True
        watch.start()
        connection.sock = link
        try:
            connection.request(method, path, headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read(most).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, type(error).__name__
        finally:
            watch.cancel()


def _address(text: str) -> str:
    """The text where it is an IPv4 address that others can have, else ""."""
    try:
        address = ipaddress.IPv4Address(text.strip())
    except ValueError:
        return ""
    odd = address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast
    return "" if odd else str(address)


def _said(status: int, text: str) -> str:
    if status == 0:
        return text
    return (
        f"HTTP {status}"
        + ("" if text.strip() or status != 200 else ", empty")
        + (", no address" if status == 200 and text.strip() else "")
    )
