"""The notification socket of a fake systemd."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory


class NotifySocket:
    """Receives the messages of a service. `environ` has the variables for its process."""

    def __init__(self, receiver: socket.socket, path: str) -> None:
        self._receiver = receiver
        self.environ = {"NOTIFY_SOCKET": path}
        self._messages: list[dict[str, str]] = []

    def messages(self) -> list[dict[str, str]]:
        """Return all messages until now, each as its variables and their values."""
        with suppress(BlockingIOError):
            while True:
                lines = self._receiver.recv(4096).decode().splitlines()
                self._messages.append(dict(line.split("=", 1) for line in lines))
        return self._messages

    def states(self) -> list[str]:
        """Return the states until now, such as READY, without the pings for the watchdog."""
        names = [next(iter(each)) for each in self.messages()]
        return [each for each in names if each != "WATCHDOG"]

    @property
    def pings(self) -> int:
        """The number of pings for the watchdog until now."""
        return sum("WATCHDOG" in each for each in self.messages())


@contextmanager
def notify_socket(*, is_abstract: bool = False) -> Iterator[NotifySocket]:
    """Open a notification socket."""
    with (
        TemporaryDirectory(prefix="notify-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
    ):
        path = str(Path(directory) / "notify")
        receiver.bind(f"\0{path}" if is_abstract else path)
        receiver.setblocking(False)
        yield NotifySocket(receiver, f"@{path}" if is_abstract else path)
