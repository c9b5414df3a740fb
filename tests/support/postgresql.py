"""A real PostgreSQL server from the operating system's packages."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from kafka_http.demo.local_resources import free_ports

_PACKAGED = Path("/usr/lib/postgresql")


class PostgreSQLMissing(Exception):
    """This machine has no PostgreSQL server. The message lists the places that were searched."""


def find_postgresql() -> Path:
    """Return the directory of `initdb` and `pg_ctl`: of the newest package, or else on PATH."""
    found = sorted(_PACKAGED.glob("*/bin/initdb"), key=lambda each: float(each.parts[-3]))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    if on_path:
        return Path(on_path).parent
    raise PostgreSQLMissing(f"PostgreSQL not found: no {_PACKAGED}/*/bin/initdb, and no initdb on PATH")


class PostgreSQL:
    """A server on a free loopback port with the superuser `tester`. Its files are in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._bin = find_postgresql()
        self._directory = directory
        self._port = free_ports(1)[0]
        self._user = "postgres" if os.getuid() == 0 else None  # PostgreSQL does not run as root

    def create(self) -> None:
        """Create the files. Call once, before `start`."""
        self._directory.mkdir(mode=0o700)
        if self._user:
            owner = pwd.getpwnam(self._user)
            os.chown(self._directory, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "-D", self._data, "-U", "tester", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8")

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=on"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", str(self._directory / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Stop the server at once. Does nothing if it does not run."""
        if (self._directory / "data" / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "tester", name)
        return f"postgresql://tester@127.0.0.1:{self._port}/{name}"

    @property
    def _data(self) -> str:
        return str(self._directory / "data")

    def _run(self, command: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / command, *arguments],
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )
        assert done.returncode == 0, done.stdout
