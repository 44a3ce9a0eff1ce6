"""Host specifications."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distex import HostError, HostSpec
from distex.launch.hosts import parse_hosts


@pytest.mark.parametrize(("url", "is_ssh", "user", "host", "port", "workers"), [
    ("ssh://maxi", True, None, "maxi", None, None),
    ("ssh://maxi/8", True, None, "maxi", None, 8),
    ("ssh://maxi/", True, None, "maxi", None, None),
    ("ssh://maxi:10022", True, None, "maxi", 10022, None),
    ("ssh://user@maxi:10022/8", True, "user", "maxi", 10022, 8),
    ("ssh://first.last@maxi.example.org/16", True, "first.last", "maxi.example.org", None, 16),
    ("ssh://192.168.0.1:22/1", True, None, "192.168.0.1", 22, 1),
    ("ssh://user@[::1]:22/2", True, "user", "::1", 22, 2),
    ("ssh://[fe80::1%eth0]/2", True, None, "fe80::1%eth0", None, 2),
    ("maxi", False, None, "maxi", None, None),
    ("maxi:8899/4", False, None, "maxi", 8899, 4),
    ("[::1]:8899", False, None, "::1", 8899, None),
    ("maxi:65535", False, None, "maxi", 65535, None),
])
def test_what_a_specification_says(url, is_ssh, user, host, port, workers):
    spec = HostSpec(url)
    assert spec.url == url
    assert (spec.is_ssh, spec.user, spec.host) == (is_ssh, user, host)
    assert (spec.port, spec.num_workers) == (port, workers)


@pytest.mark.parametrize(("url", "why"), [
    ("", "form"), ("ssh://", "form"), ("/8", "form"), (":22", "form"), ("maxi/eight", "form"),
    ("maxi:ssh", "form"), ("maxi/8/8", "form"), ("two words", "form"), ("a@b@maxi", "form"),
    ("::1", "form"), ("[::1", "form"), ("maxi/-1", "form"), ("maxi\n", "form"), (None, "form"),
    (b"maxi", "form"), (8, "form"),
    ("http://maxi", "http:// is not known"), ("tcp://maxi:1/2", "only ssh://"),
    ("maxi:0", "65535"), ("maxi:65536", "65535"), ("ssh://maxi:99999999999", "65535"),
    ("user@maxi", "ssh:// only"), ("maxi/0", "no workers"), ("ssh://maxi/0", "no workers"),
])
def test_what_cant_be_a_host(url, why):
    with pytest.raises(HostError) as info:
        HostSpec(url)
    assert why in str(info.value)
    assert repr(url) in str(info.value)
    assert isinstance(info.value, ValueError)


@given(st.text(max_size=40))
def test_any_text_is_a_host_or_a_host_error(text):
    try:
        spec = HostSpec(text)
    except HostError:
        return
    assert spec.host
    assert spec.port is None or 0 < spec.port < 65536
    assert spec.num_workers is None or spec.num_workers > 0


def test_a_specification_is_a_value():
    assert HostSpec("maxi/8") == HostSpec("maxi/8") != HostSpec("maxi/9")
    assert len({HostSpec("maxi/8"), HostSpec("maxi/8")}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        HostSpec("maxi").host = "other"


def test_all_the_forms_that_pool_takes():
    spec = HostSpec("maxi")
    assert parse_hosts(None) == []
    assert parse_hosts([]) == []
    assert parse_hosts("maxi") == [spec]
    assert parse_hosts(spec) == [spec]
    assert parse_hosts(["maxi", HostSpec("ssh://mini/2")]) == [spec, HostSpec("ssh://mini/2")]
    assert parse_hosts(("maxi",)) == [spec]
