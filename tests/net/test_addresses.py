"""The address table, the URL grammar and the resolver's leash."""

from __future__ import annotations

import socket
import threading
import time
from ipaddress import ip_address
from typing import Self

import pytest

from flaskllm.errors import InvalidRequest
from flaskllm.net import addresses
from flaskllm.net.addresses import HostList, is_clean, is_own, is_public, look_up, may_be_opened, parse_url

PUBLIC = (
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "168.63.129.15",
    "168.63.129.17",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2003::1",
    "2606:2800:220:1::1",
    "2620:4f:8001::1",
    "3ffe:ffff::1",
)
CALLED_GLOBAL_BY_PYTHON = (
    "192.0.0.8",
    "192.0.0.192",
    "192.88.99.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.175.48.1",
    "224.0.0.1",
    "239.255.255.250",
    "168.63.129.16",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "100:0:0:1::1",
    "2002:7f00:1::1",
    "3fff::1",
    "5f00::1",
    "fec0::1",
    "ff02::1",
)
REFUSED = (
    "0.0.0.0",
    "0.255.255.255",
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.0.0",
    "169.254.169.254",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.2.255",
    "192.168.255.255",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.255",
    "240.0.0.0",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:8.8.8.8",
    "1fff:ffff::1",
    "2001::1",
    "2001:1ff:ffff::1",
    "2001:db8:ffff::1",
    "2620:4f:8000:ffff::1",
    "3fff:fff::1",
    "4000::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "2a00:1450::5efe:808:808",
    "2a00:1450::200:5efe:808:808",
    "2a00:1450::1%lo",
)


@pytest.mark.parametrize("ip", PUBLIC)
def test_a_public_address_is_public(ip: str) -> None:
    assert is_public(ip)
    assert is_public(ip_address(ip))


@pytest.mark.parametrize("ip", [*CALLED_GLOBAL_BY_PYTHON, *REFUSED])
def test_everything_else_is_refused(ip: str) -> None:
    assert not is_public(ip)


@pytest.mark.parametrize("ip", ["10.0.0.7", "127.0.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd12::1", "1.1.1.1"])
def test_an_operator_may_open_a_private_address(ip: str) -> None:
    assert may_be_opened(ip)


@pytest.mark.parametrize(
    "ip",
    [
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fe80::1",
        "fe80::1%lo",
        "fd00:ec2::254",
        "fd20:ce::254",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "::ffff:10.0.0.1",
    ],
)
def test_metadata_and_link_local_stay_closed_to_operators(ip: str) -> None:
    assert not may_be_opened(ip)


def test_an_address_of_this_host_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_own(ip_address("127.0.0.1"))  # on the loopback device: the table's business
    monkeypatch.setattr(addresses, "_on_loopback_device", set)
    assert is_own(ip_address("127.0.0.1"))


class Probe:
    """Stands for a datagram socket: tests do not leave loopback, not even to ask for the way."""

    source: str | None = "192.0.2.2"

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self, _: object) -> None:
        if self.source is None:
            raise OSError(101, "Network is unreachable")

    def getsockname(self) -> tuple[str, int]:
        return str(self.source), 9


@pytest.mark.parametrize("source, own", [("93.184.216.34", True), ("192.0.2.2", False), (None, False)])
def test_the_kernel_says_from_where_it_would_go(monkeypatch: pytest.MonkeyPatch, source: str | None, own: bool) -> None:
    monkeypatch.setattr(addresses, "_on_loopback_device", set)
    monkeypatch.setattr(Probe, "source", source)
    monkeypatch.setattr(addresses.socket, "socket", Probe)
    assert is_own(ip_address("93.184.216.34")) is own


def test_without_linux_nothing_counts_as_loopback_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ip_address("127.0.0.1") in addresses._on_loopback_device()
    monkeypatch.setattr(addresses.sys, "platform", "darwin")
    assert addresses._on_loopback_device() == set()


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_look_up_gives_each_address_once() -> None:
    found = look_up(lambda *_: ["1.1.1.1", ip_address("1.1.1.1"), "::1"], "a.test", 80, 1)
    assert found == [ip_address("1.1.1.1"), ip_address("::1")]


def _fails(*_: object) -> list[str]:
    raise socket.gaierror(-2, "unknown")


@pytest.mark.parametrize("resolve", [_fails, lambda *_: [], lambda *_: ["nonsense"]])
def test_a_name_without_an_address_is_an_error(resolve: addresses.Resolver) -> None:
    with pytest.raises(OSError, match="cannot be resolved"):
        look_up(resolve, "a.test", 80, 1)


def test_where_no_thread_runs_the_look_up_is_done_on_the_spot() -> None:
    on_the_spot: list[int] = []

    def resolve(*_: object) -> list[str]:
        on_the_spot.append(threading.get_ident())
        return ["1.1.1.1", "1.1.1.1"]

    assert look_up(resolve, "a.test", 80, 1, threads=False) == [ip_address("1.1.1.1")]
    assert on_the_spot == [threading.get_ident()]
    for failing in (_fails, lambda *_: [], lambda *_: ["nonsense"]):
        with pytest.raises(OSError, match=r"cannot be resolved|unknown"):
            look_up(failing, "a.test", 80, 1, threads=False)


def test_a_late_name_server_is_left_behind() -> None:
    gate = threading.Event()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        look_up(lambda *_: [str(gate.wait(5))], "a.test", 80, 0.1)
    assert time.monotonic() - began < 3
    gate.set()


def test_no_more_names_are_looked_up_than_threads_may_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_LOOKUPS", threading.BoundedSemaphore(1))
    gate = threading.Event()
    with pytest.raises(TimeoutError):
        look_up(lambda *_: [str(gate.wait(5))], "a.test", 80, 0.05)
    with pytest.raises(TimeoutError, match="too many"):
        look_up(lambda *_: ["1.1.1.1"], "a.test", 80, 0.05)
    gate.set()
    assert look_up(lambda *_: ["1.1.1.1"], "a.test", 80, 2)


def test_a_process_without_threads_to_spare_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        for _ in range(100):  # more than there are slots: each is given back
            with pytest.raises(OSError, match="no thread"):
                look_up(lambda *_: ["1.1.1.1"], "a.test", 80, 1)


def test_the_system_resolver_answers_addresses() -> None:
    assert "127.0.0.1" in addresses.system_resolver("127.0.0.1", 80)


# --- URLs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, url",
    [
        ("http://public.test", "http://public.test/"),
        ("HTTP://PUBLIC.TEST/Ok", "http://public.test/Ok"),
        ("https://public.test:443/a?b=c#d", "https://public.test/a?b=c"),
        ("https://public.test:8443", "https://public.test:8443/"),
        ("http://public.test?b", "http://public.test/?b"),
        ("http://public.test./x", "http://public.test/x"),
        ("http://bücher.test/ok", "http://xn--bcher-kva.test/ok"),
        ("http://BÜCHER.test/", "http://xn--bcher-kva.test/"),
        ("http://xn--bcher-kva.test/", "http://xn--bcher-kva.test/"),
        ("http://日本語.test/", "http://xn--wgv71a119e.test/"),
        ("http://1.1.1.1/", "http://1.1.1.1/"),
        ("http://[2606:4700:0::1111]:8080/", "http://[2606:4700::1111]:8080/"),
        ("http://my_host.test/", "http://my_host.test/"),
        ("http://r3---sn.test/", "http://r3---sn.test/"),
        ("http://public.test/ä/%2F?q=ö|", "http://public.test/%C3%A4/%2F?q=%C3%B6%7C"),
        ("http://public.test/@me?mail=a@b.test", "http://public.test/@me?mail=a@b.test"),
        ("http://public.test/a#b@c", "http://public.test/a"),
    ],
)
def test_a_url_is_built_from_its_parts(text: str, url: str) -> None:
    assert parse_url(text).url == url


@pytest.mark.parametrize("value", [None, 5, ["http://public.test/"], {"href": "x"}, b"http://public.test/", True])
def test_a_url_is_a_string(value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_url(value, "callback_url")
    assert caught.value.param == "callback_url"


def test_a_url_has_at_most_two_kilobytes() -> None:
    path = "http://public.test/"
    assert parse_url(path + "a" * (2048 - len(path)))
    for long in (path + "a" * (2049 - len(path)), path + "ä" * 1100):
        with pytest.raises(InvalidRequest, match="2048"):
            parse_url(long)


def test_params_are_added_to_the_query() -> None:
    target = parse_url("http://public.test/p?a=1").with_params({"b": [True, 2, None], "c": "ö &", "d": None, "e": 0.5})
    assert target.path == "/p?a=1&b=true&b=2&c=%C3%B6+%26&e=0.5"
    assert parse_url("http://public.test/p").with_params({}).path == "/p"


@pytest.mark.parametrize(
    "params, field",
    [
        ("a=b", "params"),
        ({"a": {}}, "params.a"),
        ({"a": [["x"]]}, "params.a"),
        ({"a": "\ud800"}, "params.a"),
        ({"\ud800": "a"}, "params"),
        ({5: "a"}, "params"),
        ({"a": "x" * 9000}, "params"),
    ],
)
def test_params_of_another_shape_are_named(params: object, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_url("http://public.test/").with_params(params)  # type: ignore[arg-type]
    assert caught.value.param == field


@pytest.mark.parametrize("text", ["a\\b", "a b", "a\tb", "a\u00adb", "a\u2028b", "a\u00a0b", "a\ufeffb", "a\ud800b"])
def test_what_readers_skip_is_not_clean(text: str) -> None:
    assert not is_clean(text)


# --- lists of hosts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry, url, named",
    [
        ("api.test", "https://api.test/", True),
        ("API.test", "http://api.test:8080/", True),
        ("api.test", "http://api.test:9000/", False),
        ("api.test:9000", "http://api.test:9000/", True),
        ("api.test:9000", "http://api.test/", False),
        ("api.test", "http://sub.api.test/", False),
        ("*.api.test", "http://a.b.api.test/", True),
        ("*.api.test", "http://api.test/", False),
        ("*.api.test", "http://evilapi.test/", False),
        ("*.api.test:9000", "http://x.api.test:9000/", True),
        ("[::1]:9000", "http://[0:0::1]:9000/", True),
        ("::1", "http://[::1]/", True),
        ("10.0.0.7", "http://10.0.0.7/", True),
        ("bücher.test", "http://xn--bcher-kva.test/", True),
    ],
)
def test_a_host_is_named_with_or_without_its_port(entry: str, url: str, named: bool) -> None:
    assert HostList([entry], private=False).has(parse_url(url)) is named


def test_a_private_host_is_open_at_all_ports_unless_one_is_named() -> None:
    opened = HostList(["a.test", "b.test:9000"], private=True)
    assert opened.has(parse_url("http://a.test:11434/"))
    assert opened.has(parse_url("http://b.test:9000/"))
    assert not opened.has(parse_url("http://b.test/"))


def test_an_empty_list_names_nothing() -> None:
    assert not HostList([], private=False)


@pytest.mark.parametrize("entry", ["http://a.test", "a.test/x", "a.test?x", "", "a b.test", "127.1", "a.test:0"])
def test_what_is_no_host_stops_the_start(entry: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        HostList([entry], private=False)


def test_a_private_host_is_opened_by_its_whole_name() -> None:
    with pytest.raises(ValueError, match="whole name"):
        HostList(["*.corp.test"], private=True)
