"""'ssh://user@maxi:10022/8' -> HostSpec."""

import re
from dataclasses import dataclass

from distex.errors import HostError

_SPEC = re.compile(
    r"(?:(?P<scheme>[a-z]+)://)?"
    r"(?:(?P<user>[^@/\s]+)@)?"
    r"(?:\[(?P<ipv6>[0-9a-fA-F:.]+(?:%[\w.-]+)?)\]|(?P<host>[^\[\]@:/\s]+))"
    r"(?::(?P<port>\d+))?"
    r"(?:/(?P<workers>\d*))?"
)


@dataclass(frozen=True)
class HostSpec:
    """Where remote workers are to run.

    Args:
        url: ``[ssh://][user@]host[:port][/workers]``. Without ``ssh://`` the host is one that runs
            ``python -m distex.server``. Without a number of workers: one for each CPU there. An
            IPv6 address goes in brackets.

    Attributes:
        is_ssh: whether the host is reached by ssh.
        user: the user there, or None: as ssh is configured.
        host: name or address.
        port: or None: the usual one.
        num_workers: or None: as many as the host has CPUs.

    Raises:
        HostError: the specification is malformed.
    """

    url: str

    def __post_init__(self) -> None:
        match = _SPEC.fullmatch(self.url) if isinstance(self.url, str) else None
        problem = None
        if match is None:
            problem = "it is not of the form [ssh://][user@]host[:port][/workers]"
        elif match["scheme"] not in (None, "ssh"):
            problem = f"{match['scheme']}:// is not known, only ssh://"
        elif match["port"] and not 0 < int(match["port"]) < 65536:
            problem = "the port is not between 1 and 65535"
        elif match["user"] and match["scheme"] is None:
            problem = "a user goes with ssh:// only"
        elif match["workers"] and int(match["workers"]) == 0:
            problem = "no workers would run there"
        if problem is not None or match is None:
            raise HostError(f"{self.url!r} does not name a host: {problem}")
        fields = {
            "is_ssh": match["scheme"] == "ssh",
            "user": match["user"],
            "host": match["ipv6"] or match["host"],
            "port": int(match["port"]) if match["port"] else None,
            "num_workers": int(match["workers"]) if match["workers"] else None,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    is_ssh: bool = False
    user: str | None = None
    host: str = ""
    port: int | None = None
    num_workers: int | None = None


def parse_hosts(hosts: "str | HostSpec | list[str | HostSpec] | None") -> list[HostSpec]:
    """Host specifications in any of the forms that Pool takes, as a list."""
    if hosts is None:
        return []
    if isinstance(hosts, (str, HostSpec)):
        hosts = [hosts]
    return [spec if isinstance(spec, HostSpec) else HostSpec(spec) for spec in hosts]
