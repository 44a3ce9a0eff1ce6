"""Parse host URLs such as 'ssh://user@maxi:10022/8'; SshOptions, TcpOptions."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from distex.errors import HostError
from distex.options import CONNECT_TIMEOUT, KEEPALIVE, seconds

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

# Names get into commands: of ssh's ProxyCommand, and those that errors tell the user to type. So
# nothing that a shell takes for more than a name, or a program for an option.
_USER = r"\w(?:[\w.+-]|\\(?=\w))*"  # or "domain\user"
_HOST = r"\w[\w.+-]*"  # or an alias that ~/.ssh/config has
_SPEC = (
    r"(?:(?P<scheme>[a-z]+)://)?"
    r"(?:(?P<user>[^@/\s]+)@)?"
    r"(?:\[(?P<ipv6>[0-9a-fA-F:.]+(?:%\w[\w.-]*)?)\]|(?P<host>[^\[\]@:/\s]+))"
    r"(?::(?P<port>\d+))?"
    r"(?:/(?P<workers>\d*))?"
)


@dataclass(frozen=True, kw_only=True)
class SshOptions:
    """How a host is reached by ssh, as far as its URL and ``~/.ssh/config`` don't say.

    Attributes:
        client_keys: files with private keys to use; empty: the agent's, and those in ``~/.ssh``.
        passphrase: of these keys, or a function that gives it for the name of a key's file.
        known_hosts: files with the keys of known hosts; empty: ``~/.ssh/known_hosts``, or as
            configured. A host whose key is in none of them is refused.
        python: path of the Python there; empty: the one that ``distex_proc`` belongs to, or
            ``python3``, as a shell finds them that is not interactive.
        working_directory: of the workers, absolute or as seen from the home directory; it has to
            exist. Modules in it can be imported.
        keepalive: seconds in which a host that is cut off is noticed. There, nanny and workers
            end when they have heard nothing for 8 times as long.
        connect_timeout: seconds to connect and log in, and again to start the nanny.
        config: files in the form of ``~/.ssh/config`` to read in its place.

    Raises:
        HostError: a time is not more than 0.
    """

    client_keys: Paths = ()
    passphrase: str | Callable[[str], str] | None = field(default=None, repr=False)
    known_hosts: Paths = ()
    python: str = ""
    working_directory: str = ""
    keepalive: float = KEEPALIVE  # seconds
    connect_timeout: float = CONNECT_TIMEOUT  # seconds
    config: Paths = ()

    def __post_init__(self) -> None:
        _check_times(self)


@dataclass(frozen=True, kw_only=True)
class TcpOptions:
    """How a pool works with hosts that are not reached by ssh: those that run
    ``python -m distex.server``, and those whose workers join by ``python -m distex worker``.

    Attributes:
        secret: file with the secret that they share; empty: the file that the environment
            variable DISTEX_SECRET names, or ``~/.config/distex/secret.pem``.
        keepalive: seconds in which a host that is cut off is noticed. There, nanny and workers
            end when they have heard nothing for 8 times as long.
        connect_timeout: seconds to connect.

    Raises:
        HostError: a time is not more than 0.
    """

    secret: str | os.PathLike[str] = ""
    keepalive: float = KEEPALIVE  # seconds
    connect_timeout: float = CONNECT_TIMEOUT  # seconds

    def __post_init__(self) -> None:
        _check_times(self)


def _check_times(options: SshOptions | TcpOptions) -> None:
    for name in ("keepalive", "connect_timeout"):
        try:
            object.__setattr__(options, name, seconds(name, getattr(options, name)))
        except ValueError as exc:
            raise HostError(str(exc)) from None


@dataclass(frozen=True)
class HostSpec:
    """Where remote workers are to run.

    Args:
        url: ``[ssh://][user@]host[:port][/workers]``. Without ``ssh://`` the host is one that runs
            ``python -m distex.server``. Without a number of workers: one for each CPU there. An
            IPv6 address goes in brackets.
        ssh: what else there is to say for ``ssh://``.

    Attributes:
        is_ssh: whether the host is reached by ssh.
        user: the user there, or None: as ssh is configured.
        host: name or address.
        port: or None: the usual one, for the spawn server 8899.
        num_workers: or None: as many as the host has CPUs.

    Raises:
        HostError: the specification is malformed.
    """

    url: str
    ssh: SshOptions = SshOptions()
    is_ssh: bool = field(init=False)
    user: str | None = field(init=False)
    host: str = field(init=False)
    port: int | None = field(init=False)
    num_workers: int | None = field(init=False)

    def __post_init__(self) -> None:
        match = re.fullmatch(_SPEC, self.url) if isinstance(self.url, str) else None
        problem = None
        if match is None:
            problem = "it is not of the form [ssh://][user@]host[:port][/workers]"
        elif match["scheme"] not in (None, "ssh"):
            problem = f"{match['scheme']}:// is not known, only ssh://"
        elif match["user"] and not re.fullmatch(_USER, match["user"]):
            problem = f"{match['user']!r} is not the name of a user"
        elif match["host"] and not re.fullmatch(_HOST, match["host"]):
            problem = f"{match['host']!r} is not the name of a host"
        elif match["port"] and not 0 < int(match["port"]) < 65536:
            problem = "the port is not between 1 and 65535"
        elif match["user"] and match["scheme"] is None:
            problem = "a user goes with ssh:// only"
        elif self.ssh != SshOptions() and match["scheme"] is None:
            problem = "options for ssh go with ssh:// only"
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

    @property
    def key(self) -> object:
        """The same for all specifications of one host."""
        return self.is_ssh, self.user, self.host, self.port

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


def parse_hosts(hosts: str | HostSpec | Sequence[str | HostSpec] | None) -> list[HostSpec]:
    """Host specifications in any of the forms that Pool takes, as a list."""
    if hosts is None:
        return []
    if isinstance(hosts, (str, HostSpec)):
        hosts = [hosts]
    return [spec if isinstance(spec, HostSpec) else HostSpec(spec) for spec in hosts]
