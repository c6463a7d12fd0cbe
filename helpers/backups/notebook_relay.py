"""In a pod that makes a backup: a program in the notebook's pod, whose input and output pass through this process.

    python -m helpers.backups.notebook_relay WORD...     the words behind `python -I -S -X utf8 -c CODE` there

It asks JupyterLab's address for that (docker/jupyter/trackbed_notebook/programs.py), with its token, straight: through
no proxy, and nobody is followed elsewhere. What comes back is the notebook's word, and its user's. Nothing of it is
held, and it may last for ever: who starts this process bounds time and size, and ends it.
"""

from __future__ import annotations

import http.client
import json
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

TOKEN = "jupyter-token"  # noqa: S105  # the name of a file
HOST, PORT, ADDRESS = "jupyter", 8888, "/trackbed/python"
CONNECTING, SILENCE = 15.0, 600.0  # seconds; who starts this gives up before the second
BLOCK = 2**16
WORDS = 4000  # of the last characters that the program says
ENDING = 6 * WORDS + 100  # bytes of them as JSON, with the exit code
REASONS = {
    403: "it does not take its token: `invoke up` gives the backups the new one",
    404: "its image has no address for backups: `invoke build` and `invoke up` bring it, unless the image is your own",
}


class Failed(Exception):
    """There is no program, or its answer is not whole."""


def _input() -> Iterator[bytes]:
    while data := os.read(0, BLOCK):
        yield data


def _asked(
    connection: http.client.HTTPConnection, method: str, token: str, words: Sequence[str] = ()
) -> http.client.HTTPResponse:
    headers = {"Authorization": f"token {token}", "Host": "localhost"}  # JupyterLab knows no other name of itself
    if method == "GET":
        connection.request(method, ADDRESS, headers=headers)
    else:
        headers |= {"Transfer-Encoding": "chunked", "Content-Type": "application/octet-stream"}
        first = json.dumps(list(words)).encode() + b"\n"
        body = (piece for source in ((first,), _input()) for piece in source)
        connection.request(method, ADDRESS, body, headers, encode_chunked=True)
    answer = connection.getresponse()
    if answer.status != 200:
        raise Failed(REASONS.get(answer.status, f"it answers {answer.status}"))
    return answer


def _exactly(answer: http.client.HTTPResponse, count: int) -> bytes:
    data = answer.read(count)
    if len(data) != count:
        raise Failed("its answer ended early")
    return data


def _output(answer: http.client.HTTPResponse) -> tuple[int, str]:
    """The program's output to this one's, as it comes. Gives its exit code and its last words."""
    while left := int(struct.unpack(">I", _exactly(answer, 4))[0]):
        while left:
            data = answer.read1(min(left, BLOCK))
            if not data:
                raise Failed("its answer ended early")
            left -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]
    try:
        code, said = json.loads(answer.read(ENDING))
        return int(code), str(said)[-WORDS:]
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise Failed("its answer ended early") from None


def run(words: Sequence[str], token: str) -> tuple[int, str]:
    """The program's exit code and its last words. Raises Failed."""
    connection = http.client.HTTPConnection(HOST, PORT, timeout=CONNECTING)
    try:
        _asked(connection, "GET", token).read(BLOCK)  # before the input, which a refusal would cut off
        if connection.sock is None:
            connection.connect()
        connection.sock.settimeout(SILENCE)
        return _output(_asked(connection, "POST", token, words))
    except BrokenPipeError:
        raise Failed("it takes nothing any more") from None
    except OSError as error:
        raise Failed(f"it does not answer: {error}") from None
    except (http.client.HTTPException, ValueError):  # their words may have the token, or the notebook's
        raise Failed("what it answers is no HTTP") from None
    finally:
        connection.close()


def main(words: Sequence[str]) -> int:
    from helpers.backups.in_cluster import GIVEN

    try:
        token = Path(GIVEN, TOKEN).read_text(encoding="utf-8")
        code, said = run(words, token)
    except OSError as error:
        code, said = 1, f"its token cannot be read: {error.strerror}"
    except Failed as error:
        code, said = 1, str(error)
    sys.stderr.write(said.encode("ascii", "backslashreplace").decode())
    return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
