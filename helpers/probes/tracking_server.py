"""Does the remote tracking server answer, asked from the notebook's own environment as MLflow's client would ask?

Fed to the notebook's Python on stdin; needs requests, which MLflow brings. Prints one JSON line:
{"problem": "" or what is wrong, "fix": what to do, "final": whether waiting is in vain}.
"""

from __future__ import annotations

import json
import os
import re
import sys
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit

PATH = "/api/2.0/mlflow/experiments/search"
LOGIN = "TRACKING_USERNAME with TRACKING_PASSWORD, or TRACKING_TOKEN, in .env"


def answer(problem: str, fix: str = "", final: bool = False) -> dict[str, Any]:
    return {"problem": problem, "fix": fix, "final": final}


def of_error(error: Exception, uri: str) -> dict[str, Any]:
    """What an exception of the request means."""
    text, host = " ".join(str(error).split()), urlsplit(uri).hostname
    if "CERTIFICATE_VERIFY_FAILED" in text or "doesn't match" in text:
        if "ostname mismatch" in text or "IP address mismatch" in text or "doesn't match" in text:
            return answer(
                f"shows a certificate for another name than {host}",
                "use the name that its certificate has in TRACKING_URI",
                True,
            )
        if "expired" in text:
            return answer("shows a certificate that has expired", "renew it on the server", True)
        reason = re.search(r"verify failed: ([^(\]]+)", text)
        why = reason[1].strip().lower() if reason else ""
        if not why or "issuer" in why or "self-signed" in why or "self signed" in why:
            whose = (
                "another authority than TRACKING_CA names"
                if os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
                else "an authority that is not known here"
            )
            return answer(
                f"shows a certificate of {whose}", "TRACKING_CA=/path/to/ca.pem names the authority's certificate", True
            )
        # Python is stricter than browsers: a home-made certificate may lack an extension
        return answer(f"shows a certificate that Python refuses: {why}", "reissue it with that fixed", True)
    if "WRONG_VERSION_NUMBER" in text or "wrong version number" in text or "UNEXPECTED_EOF" in text:
        return answer("does not speak TLS there", "http:// instead of https://, or another port?", True)
    if "Failed to resolve" in text or "Name or service not known" in text or "name resolution" in text:
        return answer(f"has a name that does not resolve: {host}", "is the name right? an address works, too")
    if "refused" in text:
        return answer("refuses the connection", "is the server up, and the port right?")
    if "timed out" in text or "unreachable" in text or "No route" in text:
        return answer("does not answer (no connection)", "does a firewall stand between, on either side?")
    if "TLS CA certificate" in text or "NO_CERTIFICATE" in text or "PEM" in text:
        return answer(
            "cannot be verified: the file of TRACKING_CA is no usable certificate",
            "TRACKING_CA names a file in PEM form",
            True,
        )
    if "SSL" in text:
        return answer(f"fails in TLS: {text[-200:]}", "openssl s_client -connect HOST:PORT shows more", True)
    return answer(f"cannot be asked: {text[-300:]}", "look at TRACKING_URI")


def of_status(status: int, body: str, login: bool) -> dict[str, Any]:
    """What an HTTP answer means."""
    text = " ".join(body.split())[:200]
    if status == 200:
        try:
            if isinstance(json.loads(body), dict):
                return answer("")
        except ValueError:
            pass
        return answer(
            "answers with a page instead of data",
            "a login page in between? TRACKING_URI names the MLflow server itself",
            True,
        )
    if status == 401:
        return answer("does not accept the login (401)" if login else "wants a login (401)", LOGIN, True)
    if status == 403:
        if "host" in text.lower():
            return answer(
                f"refuses the name it is called by (403: {text})",
                "on the server: allow that name (with Trackbed: PUBLIC_ADDRESS)",
                True,
            )
        return answer(f"forbids it (403: {text})", "ask its administrator for the permission", True)
    if status == 404:
        return answer(
            "answers, but there is no MLflow at this address (404)", "is the path in TRACKING_URI right?", True
        )
    if status == 407:
        return answer("is behind a proxy that wants a login (407)", "set HTTPS_PROXY or NO_PROXY", True)
    return answer(f"answers with HTTP {status} {text}", "look at the server")


def main() -> int:
    import requests  # type: ignore[import-untyped,unused-ignore]

    uri = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    plugins = entry_points(group="mlflow.request_auth_provider", name=os.environ.get("MLFLOW_TRACKING_AUTH", ""))
    authorize = next((plugin.load()().get_auth() for plugin in plugins), None)
    certificate = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    try:
        got = requests.get(
            uri + PATH, params={"max_results": 1}, auth=authorize, verify=certificate or True, timeout=(8, 15)
        )
        result = of_status(got.status_code, got.text[:100_000], "Authorization" in got.request.headers)
    except (requests.exceptions.RequestException, OSError) as error:
        result = of_error(error, uri)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
