"""The listening sockets: addresses of both families, names, and the link that the log shows."""

from __future__ import annotations

import errno
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.network import has_ipv6

from llamagen_server.serving.listener import listen

V4, V6 = socket.AF_INET, socket.AF_INET6
PORT = r":\d+"


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names that the test gives addresses."""
    names: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **options: Any) -> Any:
        return [entry for name in names.get(host, [host]) for entry in real(name, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@pytest.fixture
def no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.create_server

    def create_server(address: Any, *, family: int) -> socket.socket:
        if family == V6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(address, family=family)

    monkeypatch.setattr(socket, "create_server", create_server)


@pytest.mark.parametrize(
    ("host", "families", "link", "loopback"),
    [
        ("127.0.0.1", [V4], "http://127.0.0.1", True),
        ("0.0.0.0", [V4], "http://localhost", False),
        ("0", [V4], "http://localhost", False),
        pytest.param("::1", [V6], "http://[::1]", True, marks=needs_ipv6),
        pytest.param("[::1]", [V6], "http://[::1]", True, marks=needs_ipv6),
        pytest.param("::", [V4, V6], "http://localhost", False, marks=needs_ipv6),
        pytest.param("[::]", [V4, V6], "http://localhost", False, marks=needs_ipv6),
    ],
)
def test_addresses(host: str, families: list[int], link: str, loopback: bool) -> None:
    with listen(host, 0) as listener:
        assert [one.family for one in listener.sockets] == families
        assert len({one.getsockname()[1] for one in listener.sockets}) == 1
        assert re.fullmatch(re.escape(link) + PORT, listener.link("http"))
        assert listener.is_loopback == loopback
        assert all(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in listener.sockets)
    assert all(one.fileno() == -1 for one in listener.sockets)


@needs_ipv6
def test_clients_of_both_families_connect_and_keep_their_addresses() -> None:
    with listen("::", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        for listening, host in zip(listener.sockets, ("127.0.0.1", "::1"), strict=True):
            with socket.create_connection((host, port), 5) as client, listening.accept()[0] as accepted:
                assert accepted.getpeername()[0] == client.getsockname()[0] == host


@needs_ipv6
def test_a_name_stands_for_all_its_addresses(resolve: dict[str, list[str]]) -> None:
    resolve["both.test"] = ["127.0.0.1", "::1", "127.0.0.1"]
    with listen("both.test", 0) as listener:
        assert [one.family for one in listener.sockets] == [V4, V6]
        assert listener.is_loopback
        assert re.fullmatch("https://both[.]test" + PORT, listener.link("https"))
    resolve["elsewhere.test"] = ["127.0.0.1", "192.0.2.77"]  # an address for documentation, which no machine has
    with listen("elsewhere.test", 0) as listener:
        assert [one.getsockname()[0] for one in listener.sockets] == ["127.0.0.1"]


@pytest.mark.usefixtures("no_ipv6")
def test_without_ipv6(resolve: dict[str, list[str]]) -> None:
    resolve["both.test"] = ["::1", "127.0.0.1"]
    for host, address in (("::", "0.0.0.0"), ("both.test", "127.0.0.1")):
        with listen(host, 0) as listener:
            assert [one.getsockname()[0] for one in listener.sockets] == [address]
    with pytest.raises(ValueError, match=r"^cannot listen on \[::1\]:0: Address family not supported by protocol$"):
        listen("::1", 0).__enter__()


@needs_ipv6
def test_a_zone_is_part_of_the_link() -> None:
    found = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines() if line.startswith("fe80")]
    if not found:
        pytest.skip("no interface has a link-local address")
    digits, *_, interface = found[0]
    host = socket.inet_ntop(V6, bytes.fromhex(digits))
    with listen(f"{host}%{interface}", 0) as listener:
        assert re.fullmatch(re.escape(f"http://[{host}%25{interface}]") + PORT, listener.link("http"))
        assert not listener.is_loopback


@needs_ipv6
def test_a_port_that_one_family_lacks() -> None:
    with socket.create_server(("::", 0), family=V6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"^cannot listen on \[::\]:{port}: Address already in use$"):
            listen("::", port).__enter__()
        socket.create_server(("0.0.0.0", port)).close()  # nothing is left open


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("", "--host is empty; 127.0.0.1 is this machine alone, 0.0.0.0 or :: every address that it has"),
        ("nothing.invalid", r"cannot listen on nothing\.invalid:8000: "),
        ("a" * 64, "cannot listen on 'a{64}': not the name of a host"),
        ("192.0.2.77", r"cannot listen on 192\.0\.2\.77:8000: Cannot assign requested address"),
    ],
)
def test_a_host_that_cannot_be_used_is_one_line(host: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}.*$"):
        listen(host, 8000).__enter__()
