"""A client's certificate names the principal, at a real server. Kafka is not needed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration.conftest import running
from tests.support.certificates import Authority, Issued, settings_of
from tests.support.server_process import Service


class MutualTls(Service):
    """A server that authenticates clients by certificates of `authority`."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        given = {"tls_client_ca": str(self.authority.file), "auth__mtls": True, **settings_of(self.authority.server())}
        super().__init__(directory, "127.0.0.1:1", **given)
        self.url = self.url.replace("http:", "https:")

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        return super().request(method, path, verify=str(self.authority.file), **options)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MutualTls]:
    with running(MutualTls(tmp_path_factory.mktemp("mtls"))) as service:
        yield service


def with_certificate(issued: Issued) -> dict[str, Any]:
    return {"cert": (str(issued.certificate), str(issued.key))}


def test_certificate_names_the_principal(service: MutualTls) -> None:
    found = service.get("/access", **with_certificate(service.authority.client("web-1")))

    access = found.json()["access"]
    assert (access["principal"], access["scheme"]) == ("web-1", "certificate")


def test_client_without_a_usable_certificate_gets_401(service: MutualTls) -> None:
    reserved = with_certificate(service.authority.client("anonymous"))
    for options in ({}, reserved, {"headers": {"X-Api-Key": "kh_x"}}, {"auth": ("web-1", "x")}):
        for method, path in (("GET", "/access"), ("PUT", "/messages/t")):
            assert service.request(method, path, data=b"x", **options).status_code == 401


def test_credentials_in_a_header_decide_before_the_certificate(service: MutualTls) -> None:
    options = with_certificate(service.authority.client("web-1"))

    assert service.get("/access", headers={"X-Api-Key": "kh_wrong"}, **options).status_code == 401


def test_certificate_of_another_authority_or_an_expired_one_gets_no_response(
    service: MutualTls, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other").client("web-1")
    for issued in (other, service.authority.client("web-1", is_expired=True)):
        with pytest.raises(requests.ConnectionError):
            service.get("/access", **with_certificate(issued))
    assert service.get("/access", **with_certificate(service.authority.client("web-1"))).status_code == 200
