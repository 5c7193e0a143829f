"""Commands on a machine inside Fly's network: Fabric over a tunnel, with a certificate (contract 2). The one importer of Fabric.

Fly's server runs words, not a shell, so each command is wrapped in `bash -c`. Nobody publishes its host key: the one that
answers first is kept for the tunnel's life. Texts go by `run`, files by SFTP, and bytes by a channel of their own: Fabric's
`run` reads text, mangles what is none, and takes minutes for megabytes.
"""

from __future__ import annotations

import contextlib
import io
import socket
import time
from typing import TYPE_CHECKING, Any

from polyladder_ops.errors import OpsError
from polyladder_ops.fly import certificates, shell, tunnel
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.stream import NO_CODE, Outcome, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.fly.certificates import Certificate
    from polyladder_ops.fly.tunnel import Tunnel

__all__ = ["Remote", "logged_in"]

_CONNECT_S = 20.0
_ANSWER_S = 20.0
_WINDOW = 1 << 22  # what such a way holds several times over; what waits in it takes memory
_PACKET = 1 << 17  # a quarter of the packets that 32 KB make; OpenSSH and Go send such ones to who takes them


@contextlib.contextmanager
def logged_in(way: Tunnel, certificate: Certificate) -> Iterator[Remote]:
    """Within the block one SSH connection through the tunnel. Raise FlyError, explained, if the machine lets nobody in."""
    remote = Remote(way, certificate)
    try:
        remote.connect()
        yield remote
    finally:
        remote.close()


class Remote:
    """One machine, over SSH."""

    def __init__(self, way: Tunnel, certificate: Certificate) -> None:
        self._way = way
        self._certificate = certificate
        self._host_key: Any = None
        self._connection: Any = None

    @property
    def machine(self) -> str:
        """The machine's id."""
        return self._way.machine.id

    def connect(self) -> None:
        """Connect, or connect anew: to the same host key as before. Raise FlyError if that is not let in."""
        import paramiko

        self.close()
        connection = _connection(self._way.port, self._certificate)
        if self._host_key is not None:
            name = f"[{tunnel.HOST}]:{self._way.port}"
            connection.client.get_host_keys().add(name, self._host_key.get_name(), self._host_key)
            connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            connection.open()
        except (paramiko.SSHException, OSError, EOFError) as error:
            with contextlib.suppress(Exception):
                connection.close()
            raise self._not_in(error) from error
        self._connection = connection
        self._host_key = connection.transport.get_remote_server_key()

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def run(self, command: str, *, limit_s: float = shell.RUN_S) -> str:
        """Return what a shell command printed, a text of some kilobytes.

        Raise FlyError if it does not end well, or not in time: then it may run on.
        """
        outcome = self.outcome(command, limit_s=limit_s)
        if outcome.code:
            raise shell.failed(command, outcome, self.machine, self._way.app)
        return outcome.out

    def outcome(self, command: str, *, limit_s: float = shell.RUN_S) -> Outcome:
        """Return how a shell command ended, whatever its exit code. Raise FlyError if it did not end in time."""
        from invoke.exceptions import CommandTimedOut, ThreadException

        began = time.monotonic()
        try:
            done = self._connection.run(
                shell.wrapped(command),
                hide=True,
                warn=True,
                in_stream=False,
                timeout=limit_s,
                encoding="utf-8",
                env={},
            )
        except CommandTimedOut as error:
            raise self._not_ended(command, limit_s) from error
        except (ThreadException, OSError, EOFError, _ssh_exception()) as error:
            raise self.lost(error) from error
        if done.exited == NO_CODE:
            # So Fabric ends some that it has cut off at their limit: its timer is still at work when it looks at it.
            if time.monotonic() - began >= limit_s:
                raise self._not_ended(command, limit_s)
            raise self.lost(EOFError("the command ended without an exit code"))
        return Outcome(done.exited, done.stdout, done.stderr)

    def _not_ended(self, command: str, limit_s: float) -> FlyError:
        return FlyError(
            f"`{shell.short(command)}` did not end within {limit_s:g} s on machine {self.machine}",
            detail="It may run on there.",
            hint=f"Look with `fly ssh console -a {self._way.app}`, then run this again.",
            name="silent",
            passes=True,
        )

    def get(self, path: str) -> bytes:
        """Return a file's bytes, by SFTP. Raise FlyError if there is none, or the connection is lost."""
        content: bytes = self._with_file(path, lambda sftp: sftp.open(path, "rb").read())
        return content

    def put(self, path: str, content: bytes) -> None:
        """Write a file that is not there yet, readable by us alone, by SFTP. Raise FlyError if it is there, or can't be."""

        def write(sftp: Any) -> None:
            with sftp.open(path, "wx") as file:
                file.chmod(0o600)
                file.write(content)

        self._with_file(path, write)

    def _with_file(self, path: str, act: Any) -> Any:
        try:
            with contextlib.closing(self._connection.transport.open_sftp_client()) as sftp:
                sftp.get_channel().settimeout(shell.RUN_S)
                return act(sftp)
        except EOFError as error:
            raise self.lost(error) from error
        except OSError as error:
            if not self._connection.transport.is_active():
                raise self.lost(error) from error
            raise FlyError(
                f"{path} on machine {self.machine} can't be used",
                detail=f"SFTP says: {error.strerror or error}.",
                hint=f"Look with `fly ssh console -a {self._way.app}`.",
                name="no-file",
            ) from error
        except _ssh_exception() as error:
            raise self.lost(error) from error

    @contextlib.contextmanager
    def streamed(self, command: str) -> Iterator[Stream]:
        """Within the block a shell command runs whose bytes can be read and written; it is cut off if the block ends before it."""
        try:
            channel = self._connection.transport.open_session(
                window_size=_WINDOW, max_packet_size=_PACKET, timeout=_CONNECT_S
            )
            channel.exec_command(shell.wrapped(command))
        except (OSError, EOFError, _ssh_exception()) as error:
            raise self.lost(error) from error
        try:
            yield Stream(self, channel)
        finally:
            channel.close()

    def answers(self) -> bool:
        """Whether the far end still answers: a channel that opens is an answer, and so is one that it refuses."""
        try:
            self._connection.transport.open_session(timeout=_ANSWER_S).close()
        except _ssh_exception() as error:
            return "Timeout" not in str(error) and self._connection.transport.is_active()
        except (OSError, EOFError, AttributeError):
            return False
        return True

    def hang_up(self) -> None:
        """End the connection without a word to the far end, so that whoever waits for it wakes up."""
        if self._connection is not None and self._connection.transport is not None:
            self._connection.transport.close()

    def lost(self, error: BaseException) -> OpsError:
        """Return what to tell of a connection that was lost: what became of the way, if anything is known of it."""
        with contextlib.suppress(OpsError):
            if known := self._way.why_lost():
                return known
        return FlyError(
            f"the connection to machine {self.machine} was lost",
            detail=f"SSH says: {str(error).rstrip('.') or type(error).__name__}. What ran there may run on.",
            hint="Run it again, from its beginning.",
            name="connection-lost",
            passes=True,
        )

    def _not_in(self, error: BaseException) -> OpsError:
        import paramiko

        if isinstance(error, paramiko.BadHostKeyException) or "not found in known_hosts" in str(error):
            return FlyError(
                f"another machine answers as {self.machine}",
                detail="Its host key is not the one that answered before through this tunnel: Fly put another machine there.",
                hint="Run it again, from its beginning.",
                name="other-host",
                passes=True,
            )
        if isinstance(error, paramiko.AuthenticationException):
            left_s = self._certificate.until - time.time()
            why = "It has expired." if left_s <= 0 else "It may be of another organisation."
            return FlyError(
                f"machine {self.machine} does not take our certificate",
                detail=f"{why} SSH says: {error}",
                hint=f"Compare `fly orgs list` with the organisation of {self._way.app}; run it again for a new certificate.",
                name="denied",
            )
        return self.lost(error)


def _connection(port: int, certificate: Certificate) -> Any:
    """Return a connection that reads no file of the person's: no ~/.ssh, no fabric.yml, no agent."""
    import fabric
    import paramiko

    key = paramiko.Ed25519Key.from_private_key(io.StringIO(f"{certificate.key}\n"))
    key.load_certificate(certificate.text)
    kwargs = {
        "transport_factory": _transport,
        "pkey": key,
        "look_for_keys": False,
        "allow_agent": False,
        "banner_timeout": _CONNECT_S,
        "auth_timeout": _CONNECT_S,
    }
    config = fabric.Config(lazy=True, overrides={"load_ssh_configs": False})
    return fabric.Connection(
        tunnel.HOST, user=certificates.USER, port=port, config=config, connect_timeout=int(_CONNECT_S),
        connect_kwargs=kwargs, inline_ssh_env=False,
    )  # fmt: skip


def _transport(connection: Any, **words: Any) -> Any:
    """Return paramiko's own, which asks for AES-GCM first, one pass over the bytes where its first choice makes two.

    A question must not wait on its way until what went before it was acknowledged: 40 ms each on a quick way (tried).
    """
    import paramiko

    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made = paramiko.Transport(connection, **words)
    options = made.get_security_options()
    options.ciphers = sorted(options.ciphers, key=lambda name: "gcm" not in name)
    return made


def _ssh_exception() -> type[Exception]:
    import paramiko

    kind: type[Exception] = paramiko.SSHException
    return kind
