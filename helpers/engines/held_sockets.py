"""supervisord that holds the listening sockets of its programs while these are down. Another account that took such a
port in the meantime would be sent the tokens of clients, browsers and notebooks.

Run in place of supervisor's own script. A program with `socket=` ([fcgi-program]) has the socket as its standard input;
supervisor alone would close it at each end of the program. What connects while the program is down is hung up on.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from supervisor import process, supervisord


class HeldSocket:
    """Takes the place of supervisor's SocketManager: opened once, closed with its group."""

    def __init__(self, socket_config: Any, logger: Any = None) -> None:
        self.socket_config, self.logger = socket_config, logger
        self.socket: socket.socket | None = None
        self.nothing = open(os.devnull)  # noqa: SIM115

    def config(self) -> Any:
        return self.socket_config

    def get_socket(self) -> Any:
        """What the program gets. Nothing while another program has the address: ours then says so itself."""
        if self.socket is None:
            try:
                self.socket = self._open()
            except OSError as error:
                self.logger.warn(f"{self.socket_config.url} cannot be held: {error}")
                return self.nothing
        return self.socket

    def _open(self) -> socket.socket:
        created: socket.socket = self.socket_config.create_and_bind()
        try:
            created.listen(socket.SOMAXCONN)
            created.setblocking(False)
        except OSError:
            created.close()
            raise
        return created

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
        self.socket = None


class HangUp:
    """supervisord's dispatcher for the socket of a program that is down."""

    def __init__(self, held: socket.socket) -> None:
        self.held = held

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        for _ in range(100):
            try:
                self.held.setblocking(False)  # the program has the same one, and may have changed that
                self.held.accept()[0].close()
            except OSError:
                return

    def handle_error(self) -> None:
        pass


class Group(process.FastCGIProcessGroup):  # type: ignore[misc,unused-ignore]
    def get_dispatchers(self) -> dict[int, Any]:
        result: dict[int, Any] = super().get_dispatchers()
        held = self.socket_manager.socket
        if held is not None and not any(one.pid for one in self.processes.values()):
            result[held.fileno()] = HangUp(held)
        return result

    def before_remove(self) -> None:
        super().before_remove()
        self.socket_manager.close()  # its successor may be on the same port


if __name__ == "__main__":
    process.SocketManager, process.FastCGIProcessGroup = HeldSocket, Group
    supervisord.main()
