"""The secret file that machines share: a certificate for mutual TLS.

It is one file in PEM form that holds a self-signed certificate and its key. Both ends of a
connection show this certificate as their own and accept no other, so who has the file belongs, and
nobody else gets through the TLS handshake: nothing that a stranger sends is looked at.
"""

import os
import shlex
import ssl
import stat

from distex.errors import HostError

VARIABLE = "DISTEX_SECRET"  # in the environment: the file


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
    """A secret that is there and that others can't read.

    Args:
        path: of its file; empty: the default one.

    Raises:
        HostError: there is none, others can read it, or it is no secret; and what to do.
    """

    def __init__(self, path: str | os.PathLike[str] = "") -> None:
        self.path = os.path.abspath(os.path.expanduser(path) if path else default_path())
        _check_access(self.path)
        self.context([], server_side=True)  # that it is one

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
            # an encrypted key is not to ask for a password at the terminal
            context.load_cert_chain(self.path, password="")
            context.load_verify_locations(self.path)
        except (OSError, ValueError) as exc:
            raise HostError(
                f"{self.path} is no secret of distex: {exc}. Copy it again from where it was made, "
                f"or remove it and make a new one: {how_to_make(self.path)}") from exc
        if protocols:
            context.set_alpn_protocols(protocols)
        return context


def how_to_make(path: str) -> str:
    """The command that makes a secret."""
    return f"python -m distex.server --make-secret {shlex.quote(path)}"


def _check_access(path: str) -> None:
    """Only its owner may read it, who is this user; or root, who may let this user's group."""
    try:
        found = os.stat(path)
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise HostError(
            f"there is no secret at {path}: copy it from the machine that has it, or make one and "
            f"copy it there: {how_to_make(path)}") from None
    except OSError as exc:
        raise HostError(f"the secret {path} can't be read: {exc}") from exc
    if os.name != "posix":
        return
    if found.st_uid not in (0, os.geteuid()):
        raise HostError(f"the secret {path} belongs to another user: copy it, "
                        "with mode 0600, to a file of your own")
    allowed = 0o640 if found.st_uid == 0 != os.geteuid() else 0o600
    if stat.S_IMODE(found.st_mode) & ~allowed & 0o177:
        raise HostError(f"others can read the secret {path}: chmod 600 {shlex.quote(path)}; "
                        "and make a new one if somebody may have read it")
