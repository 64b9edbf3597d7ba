"""Apache Kafka for tests and benchmarks: the real broker, one KRaft node, in a child process.

The jars are resolved once by Maven from ``tests/integration/kafka/pom.xml`` and kept in
``~/.cache/stream-recommender/kafka-<version>`` (``RECS_KAFKA_JARS`` names another folder). Redis comes from
`stream_app.embedded.EmbeddedRedis`, which is a real server already.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

from stream_app.embedded import LOOPBACK, EmbeddedServerError, ServerProcess, free_port

POM = Path(__file__).parent / "integration" / "kafka" / "pom.xml"
COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class KafkaUnavailableError(EmbeddedServerError):
    """Java 17 or the jars of Kafka cannot be had here; the message says which."""


class KafkaServer(ServerProcess):
    """A single Apache Kafka 4 node on a free loopback port, tuned to start fast.

    Parameters
    ----------
    partitions
        Partition count of topics that are created on first use.
    config
        Further lines of ``server.properties``; they win over the ones set here.
    users
        Passwords by user name. With any, a second listener (`secure_bootstrap`) asks for them with
        SCRAM-SHA-512 over TLS; its certificate is for 127.0.0.1 and signed by the authority in `ca_file`.
    heap
        Maximum heap of the JVM, in the notation of ``-Xmx``.
    start_timeout_s
        Seconds the broker may take until it answers.

    Raises
    ------
    KafkaUnavailableError
        By `start`, if Java 17 or the jars are missing and cannot be resolved.
    """

    name = "kafka"

    def __init__(
        self,
        *,
        partitions: int = 4,
        config: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        heap: str = "512m",
        start_timeout_s: float = 90.0,
    ) -> None:
        super().__init__(start_timeout_s=start_timeout_s)
        self.partitions = partitions
        self.config = dict(config or {})
        self.users = dict(users or {})
        self.heap = heap
        self._controller_port = 0
        self._secure_port = 0

    @property
    def bootstrap(self) -> str:
        """Address for Kafka clients, ``host:port``."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def secure_bootstrap(self) -> str:
        """Address of the listener with TLS and passwords; there is one if there are `users`."""
        return f"{LOOPBACK}:{self._secure_port}"

    @property
    def ca_file(self) -> Path:
        """The certificate of the authority that clients of `secure_bootstrap` must trust."""
        return self.directory / "tls" / "ca.pem"

    def command(self) -> Sequence[str]:
        """Write ``server.properties``, format the storage of a new folder, return the broker's command."""
        jvm = [java(), f"-Xmx{self.heap}", "-Xshare:auto", "-XX:+UseSerialGC", "-cp", f"{kafka_jars()}/*"]
        properties = self.directory / "server.properties"
        if not properties.exists():
            self._controller_port, self._secure_port = free_port(), free_port()
            properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
            passwords = [f"SCRAM-SHA-512=[name={name},password={it}]" for name, it in self.users.items()]
            _run([*jvm, "-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format",
                  "--cluster-id", "stream-recommender-t", "--config", str(properties),
                  *(word for password in passwords for word in ("--add-scram", password))])  # fmt: skip
        return [*jvm, "kafka.Kafka", str(properties)]

    def is_ready(self) -> bool:
        """Ask for the cluster's metadata and find this broker in the answer."""
        try:
            return self._metadata_names_this_broker()
        except (OSError, struct.error):
            return False

    def _properties(self) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{LOOPBACK}:{self._controller_port}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{LOOPBACK}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.directory / "data"),
            "num.partitions": str(self.partitions),
            "auto.create.topics.enable": "true",
            # One node and short tests: no replicas, few internal partitions, no waiting for more members.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "2",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "2",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            # A broker that was killed may register again after its old session ends: 9 s by default.
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "250",
            "controlled.shutdown.enable": "false",
            "log.cleaner.dedupe.buffer.size": "2097152",
            **(self._security() if self.users else {}),
            **self.config,
        }

    def _security(self) -> dict[str, str]:
        certificate = issue_certificate(self.directory / "tls")
        return {
            "listeners": f"PLAINTEXT://{self.bootstrap},SECURE://{self.secure_bootstrap},"
            f"CONTROLLER://{LOOPBACK}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap},SECURE://{self.secure_bootstrap}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.secure.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "listener.name.secure.ssl.keystore.type": "PEM",
            "listener.name.secure.ssl.keystore.location": str(certificate.chain_with_key),
        }

    def _metadata_names_this_broker(self) -> bool:
        # Metadata request v1 with an empty list of topics, by hand: no client library is needed for it.
        client = b"ready"
        request = struct.pack(f">hhih{len(client)}si", 3, 1, 7, len(client), client, 0)
        with socket.create_connection((LOOPBACK, self.port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            (size,) = struct.unpack(">i", _read(connection, 4))
            answer = _read(connection, size)
        correlation, brokers = struct.unpack_from(">ii", answer)
        return bool(correlation == 7 and brokers == 1)


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate for 127.0.0.1, in PEM: the authority, the certificate, its key, both of them."""

    ca: Path
    certificate: Path
    key: Path
    chain_with_key: Path


def issue_certificate(folder: Path) -> Certificate:
    """Make an authority and a certificate for 127.0.0.1 in a new folder; the authority's key is not kept."""
    folder.mkdir(mode=0o700)
    authority = trustme.CA()
    issued = authority.issue_cert(LOOPBACK)
    # Java reads keys in PKCS#8 only.
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    files = Certificate(*(folder / name for name in ("ca.pem", "cert.pem", "key.pem", "server.pem")))
    files.ca.write_bytes(authority.cert_pem.bytes())
    files.certificate.write_bytes(chain)
    files.key.write_bytes(key)
    files.chain_with_key.write_bytes(key + chain)
    return files


def kafka_version() -> str:
    """Return the version of Kafka that the POM names."""
    match = re.search(r"<kafka\.version>(.+?)</kafka\.version>", POM.read_text())
    assert match, POM
    return match[1]


def kafka_jars() -> Path:
    """Return the folder with Kafka's jars, resolving them with Maven the first time.

    Raises
    ------
    KafkaUnavailableError
        If the jars are not there and Maven is missing or fails.
    """
    default = Path.home() / ".cache" / "stream-recommender" / f"kafka-{kafka_version()}"
    jars = Path(os.environ.get("RECS_KAFKA_JARS") or default)
    if _complete(jars):
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaUnavailableError("Kafka's jars are not cached and Maven is not installed: install maven")
    jars.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=jars.parent) as partial:
        folder = Path(partial) / "jars"
        _run(
            [
                maven,
                "-B",
                "-q",
                "-f",
                str(POM),
                COPY_JARS,
                f"-DoutputDirectory={folder}",
                "-DincludeScope=runtime",
            ]
        )
        shutil.rmtree(jars, ignore_errors=True)
        try:
            folder.rename(jars)
        except OSError:  # another process was faster, its jars are the same
            if not _complete(jars):
                raise
    return jars


def _complete(jars: Path) -> bool:
    return any(jars.glob("kafka_*.jar")) and any(jars.glob("kafka-tools-?.*.jar"))


def java() -> str:
    """Return the path of a Java 17 or newer.

    Raises
    ------
    KafkaUnavailableError
        If there is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if found is None:
        raise KafkaUnavailableError("Java is not installed: install a Java 17 runtime")
    answer = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', answer)
    if version is None or int(version[1]) < 17:
        raise KafkaUnavailableError(f"Kafka 4 needs Java 17 or newer, {found} says {answer.splitlines()[:1]}")
    return found


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KafkaUnavailableError(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionResetError("the broker closed the connection")
        data += chunk
    return data
