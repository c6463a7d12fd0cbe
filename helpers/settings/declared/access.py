"""Settings of access from other machines: the gateway, its name and its certificate."""

from __future__ import annotations

from dataclasses import dataclass

from helpers.settings import kinds
from helpers.settings.declaration import NOTEBOOK, UP, setting
from helpers.settings.kinds import one_of, optional


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class Access:
    """Other machines"""

    public: bool = setting(
        "false",
        kinds.SWITCH,
        "Access from other machines, through a gateway with TLS and logins (not embedded); false ends it",
        tasks=(*UP, "bundle"),
        switch=True,
    )
    domain: str = setting(
        "",
        optional(kinds.DOMAIN, ""),
        "DNS name of the public address; Trackbed gets a certificate for it that browsers trust, over ports 80 and 443",
        tasks=UP,
        only=("containers", "public"),
        instead="for the name that others call this machine: --public-address=NAME",
    )
    public_address: str = setting(
        "",
        optional(kinds.HOST, ""),
        "Name or IP address that other machines use for this one; with PUBLIC=true, empty asks the cloud for it",
        tasks=NOTEBOOK,
    )
    certificates: str = setting(
        "auto",
        one_of("auto", "internal", "acme"),
        "Issuer of the gateway's certificate: auto is acme with DOMAIN, and a CA of Trackbed's own without",
        tasks=UP,
        only=("containers", "public"),
    )
    acme_ca: str = setting(
        "https://acme-v02.api.letsencrypt.org/directory",
        kinds.DIRECTORY,
        "Directory URL of the ACME CA, with CERTIFICATES=acme",
        compose=True,
        only=("containers", "public"),
    )
    acme_root: str = setting(
        "",
        optional(kinds.PEM, ""),
        "Root certificate of the ACME CA, where it is your site's own",
        only=("containers", "public"),
    )
    http_port: int = setting(
        "80",
        kinds.PORT,
        "Port of the CA's HTTP challenge and of the redirect to HTTPS, with CERTIFICATES=acme",
        tasks=UP,
        compose=True,
        only=("containers", "public"),
    )
    https_port: int = setting(
        "443",
        kinds.PORT,
        "Port of the CA's TLS challenge, with CERTIFICATES=acme",
        tasks=UP,
        compose=True,
        only=("containers", "public"),
    )
    public_s3: bool = setting(
        "false",
        kinds.SWITCH,
        "Access to the S3 API from other machines, for clients that have its keys",
        tasks=UP,
        only=("containers", "public"),
        instead="artifacts pass through MLflow, which needs no port of the store",
    )
    bind_address: str = setting(
        "127.0.0.1",
        kinds.BIND_ADDRESS,
        "Address that every port listens on (with PUBLIC=true: 0.0.0.0 unless given)",
        tasks=UP,
        compose=True,
    )
