"""The secret file that machines share: a certificate for mutual TLS.

It is one file in PEM form that holds a self-signed certificate and its key. Both ends of a
connection show this certificate as their own and accept no other, so who has the file belongs, and
nobody else gets through the TLS handshake: nothing that a stranger sends is looked at.
"""

import contextlib
import hmac
import os
import re
import shlex
import ssl
import stat
from collections.abc import Iterator

from distex import machine
from distex.errors import HostError

VARIABLE = "DISTEX_SECRET"  # in the environment: the file
SIZE_LIMIT_BYTES = 64 * 1024
CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----")
KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----([^-]+)-----END ")


def default_path() -> str:
    """Where the secret is, unless it is said otherwise."""
    named = os.environ.get(VARIABLE)
    if named:
        return os.path.expanduser(named)
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return os.path.join(os.path.expanduser(config), "distex", "secret.pem")


def make(path: str | os.PathLike[str]) -> None:
    """Make a new secret, which only this user can read.

    Raises:
        FileExistsError: there is something already.
        OSError: it can't be written.
    """
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "distex")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # always: a clock that is wrong, or a date nobody thought of, should stop no pool
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(9999, 12, 31))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "wb") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
        file.write(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()))


class Secret:
    """A secret that is there and that others can't read, nor replace. Its file is read once.

    Args:
        path: of its file; empty: the default one.

    Raises:
        HostError: there is none, others can get at it, or it is no secret; and what to do.
    """

    def __init__(self, path: str | os.PathLike[str] = "") -> None:
        self.path = os.path.abspath(os.path.expanduser(path) if path else default_path())
        self._take(_read(self.path))

    @classmethod
    def inherited(cls, fd: int) -> "Secret":
        """The one that a parent process passed on as this file descriptor, which is closed."""
        secret = cls.__new__(cls)
        secret.path = f"/dev/fd/{fd}"
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, "rb") as file:
            secret._take(file.read())
        return secret

    def _take(self, content: bytes) -> None:
        self._content = content
        if len(CERTIFICATE.findall(content)) > 1:
            raise self._no_secret("it has more than one certificate")
        key = KEY.search(content)
        if key is None:
            raise self._no_secret("it has no key")
        # clients begin with it, see client_hello.py
        self.mark = b"distex-" + hmac.digest(
            b"".join(key[1].split()), b"mark", "sha256")[:16].hex().encode()
        self.context([], server_side=True)  # that it is one

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of a file with its content, which nobody else can open or change; in a
        block."""
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("distex-secret")
        else:
            import tempfile

            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        try:
            os.write(fd, self._content)
            os.lseek(fd, 0, os.SEEK_SET)
            yield fd
        finally:
            os.close(fd)

    def context(self, protocols: list[str], *, server_side: bool) -> ssl.SSLContext:
        """For one end of connections on which these protocols (ALPN) are spoken."""
        context = ssl.SSLContext(
            ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # what counts is the certificate, whoever shows it
        context.verify_mode = ssl.CERT_REQUIRED
        if server_side:
            context.num_tickets = 0
        try:
            with self.opened() as fd:  # ssl takes keys from files alone
                # an encrypted key is not to ask for a password at the terminal
                context.load_cert_chain(f"/dev/fd/{fd}", password="")
                os.lseek(fd, 0, os.SEEK_SET)
                context.load_verify_locations(f"/dev/fd/{fd}")
        except (OSError, ValueError) as exc:
            raise self._no_secret(str(exc)) from exc
        if not server_side:
            protocols = [*protocols, self.mark.decode()]
        if protocols:
            context.set_alpn_protocols(protocols)
        return context

    def _no_secret(self, reason: str) -> HostError:
        return HostError(
            f"{self.path} is no secret of distex: {reason}. Copy it again from where it was made, "
            f"or remove it and make a new one: {how_to_make(self.path)}")


def how_to_make(path: str) -> str:
    """The command that makes a secret."""
    return f"python -m distex.server --make-secret {shlex.quote(path)}"


def _read(path: str) -> bytes:
    """The content of the file, if only its owner may read it, who is this user; or root, who may
    let this user's group; and if others can't put another one in its place."""
    try:
        # what is checked is what is read; a pipe is not waited for
        fd = os.open(os.path.realpath(path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            _check_access(path, os.fstat(fd))
            return os.read(fd, SIZE_LIMIT_BYTES)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise HostError(
            f"there is no secret at {path}: copy it from the machine that has it, or make one and "
            f"copy it there: {how_to_make(path)}") from None
    except OSError as exc:
        raise HostError(f"the secret {path} can't be read: {exc}") from exc


def _check_access(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise HostError(f"the secret {path} is no file")
    if os.name != "posix":
        return
    if found.st_uid not in (0, os.geteuid()):
        raise HostError(f"the secret {path} belongs to another user: copy it, "
                        "with mode 0600, to a file of your own")
    allowed = 0o640 if found.st_uid == 0 != os.geteuid() else 0o600
    if stat.S_IMODE(found.st_mode) & ~allowed & 0o177:
        raise HostError(f"others can read the secret {path}: chmod 600 {shlex.quote(path)}; "
                        "and make a new one if somebody may have read it")
    folder = machine.folder_of_others(path)
    if folder:
        raise HostError(
            f"others can put another file in the place of the secret {path}, as they can write to "
            f"{folder}: chmod go-w {shlex.quote(folder)}, or move the secret to a folder of your "
            "own")
