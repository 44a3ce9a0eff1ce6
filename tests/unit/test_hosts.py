"""Host specifications."""

import dataclasses
import shlex

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
    ("ssh://_a+b/1", True, None, "_a+b", None, 1),
    ("ssh://büro", True, None, "büro", None, None),
    (r"ssh://CORP\user@maxi", True, r"CORP\user", "maxi", None, None),
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


SHELL = "'\"`$\\;&<>|(){}*?~!#%^,= \t\n"


@pytest.mark.parametrize("scheme", ["", "ssh://"])
@pytest.mark.parametrize("name", ["$(touch$IFS$9x)", "`id`", "a;id", "a|id", "a&id", "a\\", "~", "%h",
                                  "-oProxyCommand=id", "-", "{a,b}", "a'b", 'a"b', "a*", ".", "..a"])
def test_what_a_shell_or_ssh_takes_for_more_is_no_name(scheme, name):
    with pytest.raises(HostError, match="not the name of a host"):
        HostSpec(f"{scheme}{name}/1")
    with pytest.raises(HostError, match="not the name of a user"):
        HostSpec(f"ssh://{name}@maxi/1")


@given(st.text("ab-._+é\\" + SHELL, max_size=20), st.sampled_from(["ssh://{}", "ssh://{}@a", "{}"]))
def test_names_are_safe_to_type(text, url):
    """As ssh's ProxyCommand has them, without quotes."""
    try:
        spec = HostSpec(url.format(text))
    except HostError:
        return
    for name in filter(None, (spec.user, spec.host)):
        assert not name.startswith("-")
        assert shlex.split(f"nc {name} 22") == ["nc", name.replace("\\", ""), "22"]
        assert not set(name) & set(SHELL) - {"\\"}


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
