"""A Kafka that has a listener for each security protocol, users, ACLs if wanted, and keys made for one test."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kafka.admin import KafkaAdminClient, UserScramCredentialUpsertion

from kafka_http.demo.broker_properties import BrokerNode
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.local_resources import free_ports
from tests.support.planted_secrets import plant

PROTOCOLS = ("SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
USER, PASSWORD = "alice", "wonderland1"

_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"


class Certificates:
    """A certificate authority, a broker's certificate for 127.0.0.1 and a client's, as PEM files in a directory."""

    def __init__(self, directory: Path) -> None:
        self.authority = directory / "authority.pem"
        self.broker = directory / "broker.pem"
        self.client = directory / "client.pem"
        key, certificate = _issue("authority")
        self.authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        for name, file in (("broker", self.broker), ("client", self.client)):
            _write_pem(file, *_issue(name, (key, certificate)))


_Issued = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def _issue(name: str, issuer: _Issued | None = None) -> _Issued:
    """Make a key and its certificate, signed by `issuer`, or by itself if there is none."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, by = (issuer[0], issuer[1].subject) if issuer else (key, subject)
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
    )
    for identifier in (
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
    ):
        builder = builder.add_extension(identifier, critical=False)
    return key, builder.sign(signer, hashes.SHA256())


def _write_pem(file: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.touch(mode=0o600)
    plant(encoded.decode())
    file.write_bytes(encoded + certificate.public_bytes(serialization.Encoding.PEM))


class SecuredKafka(EmbeddedKafka):
    """A broker with a listener without security for the tests, and one for each of `PROTOCOLS` for the server.

    The user `USER` logs in with each of `MECHANISMS`. A session lasts `session_ms`, 0: without end (KIP-368). With
    `authorizes`, ACLs apply to users; the listener without security may do everything.
    """

    def __init__(self, directory: Path, *, session_ms: int = 0, authorizes: bool = False) -> None:
        port, controller_port, *secured = free_ports(2 + len(PROTOCOLS))
        self._ports = dict(zip(PROTOCOLS, secured, strict=True))
        self.certificates = Certificates(directory)
        properties = self._listeners(port, controller_port) | self._tls() | _logins(session_ms)
        node = BrokerNode(directory / "kafka", port, controller_port, authorizes=authorizes, properties=properties)
        super().__init__(node)

    def start(self) -> None:
        """Start it and make the users of SCRAM."""
        super().start()
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)) as admin:
            for mechanism in MECHANISMS[1:]:  # Kafka rejects two of a user in one request
                change = UserScramCredentialUpsertion(USER, mechanism, PASSWORD)
                assert admin.alter_user_scram_credentials([change]) == {USER: None}

    def servers(self, protocol: str) -> str:
        """The address of the listener of this protocol."""
        return f"127.0.0.1:{self._ports[protocol]}"

    def settings(self, protocol: str, mechanism: str = "PLAIN", password: str = PASSWORD) -> dict[str, Any]:
        """The settings of the server for this listener, as `Service` takes them."""
        settings: dict[str, Any] = {"security_protocol": protocol}
        if protocol.endswith("SSL"):
            files = {"ssl_cafile": "authority", "ssl_certfile": "client", "ssl_keyfile": "client"}
            settings |= {name: getattr(self.certificates, file) for name, file in files.items()}
        if protocol.startswith("SASL"):
            settings |= {
                "sasl_mechanism": mechanism,
                "sasl_plain_username": USER,
                "sasl_plain_password": password,
            }
        return {f"kafka__{name}": value for name, value in settings.items()}

    def _listeners(self, port: int, controller_port: int) -> dict[str, object]:
        ports = {"PLAINTEXT": port, "CONTROLLER": controller_port} | self._ports
        protocols = {name: "PLAINTEXT" if name == "CONTROLLER" else name for name in ports}
        return {
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{value}" for name, value in protocols.items()),
        }

    def _tls(self) -> dict[str, object]:
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.certificates.broker,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.certificates.authority,
            "listener.name.ssl.ssl.client.auth": "required",
        }


def _logins(session_ms: int) -> dict[str, object]:
    properties: dict[str, object] = {
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        "connections.max.reauth.ms": session_ms,
    }
    for protocol in ("sasl_plaintext", "sasl_ssl"):
        prefix = f"listener.name.{protocol}"
        properties[f"{prefix}.plain.sasl.jaas.config"] = f'{_PLAIN} required user_{USER}="{PASSWORD}";'
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            properties[f"{prefix}.{mechanism}.sasl.jaas.config"] = f"{_SCRAM} required;"
    return properties


@contextmanager
def secured_kafka(directory: Path, **how: Any) -> Iterator[SecuredKafka]:
    """Run a `SecuredKafka` with the arguments `how`."""
    kafka = SecuredKafka(directory, **how)
    kafka.start()
    try:
        yield kafka
    finally:
        kafka.stop()
