"""Log in to a host over ssh, as ``~/.ssh/config`` says; with each host's key checked, and no more
given to a host than a login takes.

    here ──> a host that ProxyJump names ──> another one ──> the host

Each connection but the first goes within the one before it. They are made here one by one, because
asyncssh takes the configuration as it is for those between, and there it may say that any host key
will do, or that the host may use the user's agent.
"""

import os
from typing import TYPE_CHECKING, Any

from distex.errors import HostError
from distex.launch.hosts import HostSpec, Paths, SshOptions

if TYPE_CHECKING:
    import asyncssh

# AES-GCM takes half the time of asyncssh's first choice
CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"


class HostKeyUnchecked(HostError):
    """Raised when the configuration would have a host's key go unchecked."""


async def log_in(spec: HostSpec, client_factory: Any) -> "asyncssh.SSHClientConnection":
    """Connect to the host and log in.

    Args:
        spec: the host.
        client_factory: makes the asyncssh.SSHClient for the host itself.

    Raises:
        HostKeyUnchecked: the configuration switches the check of a host's key off.
        OSError, asyncssh.Error, ...: all that asyncssh.connect() raises.
    """
    return await _connect(spec, (), client_factory=client_factory)


async def _connect(
    spec: HostSpec, way: tuple[object, ...], through: Any = None, **more: Any
) -> "asyncssh.SSHClientConnection":
    """Connect to one host, by way of those that the configuration names.

    Args:
        spec: the host.
        way: keys of the hosts that this one leads to: none of them leads to it.
        through: the connection to the host before it; None: the configuration names it.
        more: what else asyncssh.connect() is told.
    """
    import asyncssh

    arguments = _arguments(spec)
    configured = await _configured(spec, arguments)
    if configured.known_hosts is None:
        raise HostKeyUnchecked(
            f"{spec.host}: UserKnownHostsFile is 'none' in the ssh configuration, so that any host "
            "key would do")
    arguments["known_hosts"] = configured.known_hosts
    if "client_keys" not in arguments:
        arguments.update(_configured_keys(configured))
    jumps = str(configured.tunnel) if through is None and configured.tunnel else ""
    way = (*way, spec.key)
    befores = [_jump(jump, spec.ssh) for jump in jumps.split(",") if jump]
    try:
        for before in befores:
            if before.key not in way:  # as with "Host *", which is the host between too
                through = await _connect(before, way, through)
        connection = await asyncssh.connect(spec.host, tunnel=through, **arguments, **more)
    except BaseException:
        if through is not None:
            through.abort()
        raise
    if through is not None:
        connection.set_tunnel(through)  # which ends with it
    return connection


def _jump(name: str, ssh: SshOptions) -> HostSpec:
    """A host that ProxyJump names: ``[ssh://][user@]host[:port]``."""
    return HostSpec(f"ssh://{name.removeprefix('ssh://')}", SshOptions(
        keepalive=ssh.keepalive, passphrase=ssh.passphrase, config=ssh.config))


def _arguments(spec: HostSpec) -> dict[str, Any]:
    """What asyncssh is told beyond the configuration."""
    arguments: dict[str, Any] = {
        "encryption_algs": CIPHERS,
        "compression_algs": None,
        "keepalive_interval": spec.ssh.keepalive / 3,
        "keepalive_count_max": 2,
        # the user's own time limit of the configuration is not to shorten ours
        "connect_timeout": None,
        # whoever has the agent can log in as the user wherever the user can
        "agent_forwarding": False,
    }
    if spec.port is not None:
        arguments["port"] = spec.port
    if spec.user is not None:
        arguments["username"] = spec.user
    for name in ("client_keys", "known_hosts", "config"):
        paths = _paths(getattr(spec.ssh, name))
        if paths:
            arguments[name] = paths
    if spec.ssh.passphrase is not None:
        arguments["passphrase"] = spec.ssh.passphrase
    return arguments


async def _configured(
    spec: HostSpec, arguments: dict[str, Any]
) -> "asyncssh.SSHClientConnectionOptions":
    """What the configuration says, and the arguments before it."""
    import asyncssh

    configured: asyncssh.SSHClientConnectionOptions = (
        await asyncssh.SSHClientConnectionOptions.construct(
            host=spec.host, client_keys=None, client_certs=[],
            config=arguments.get("config", ()),  # the user's own; without it, it would take none
            **{name: arguments[name] for name in ("port", "username", "known_hosts")
               if name in arguments}))
    if configured.config.has_match_final():  # as asyncssh does
        configured.update(reload=True, final=True)
    return configured


def _configured_keys(configured: "asyncssh.SSHClientConnectionOptions") -> dict[str, Any]:
    """Keys that the configuration names, without files that are missing: ssh passes them over."""
    found: dict[str, Any] = {}
    for name, option in (("client_keys", "IdentityFile"), ("client_certs", "CertificateFile")):
        named = _paths(configured.config.get(option, ()))  # type: ignore[arg-type]
        there = [path for path in named
                 if os.path.exists(path) or os.path.exists(f"{path}.pub")]
        if there != named:
            found[name] = there
    if "client_keys" in found:  # as asyncssh does with those that it finds there itself
        found["ignore_encrypted"] = True
    return found


def _paths(paths: Paths) -> list[str]:
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    return [os.path.expanduser(path) for path in paths]
