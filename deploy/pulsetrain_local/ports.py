"""Ports on the loopback interface: free ones are found, wanted ones are tried, those that serve are asked."""

import contextlib
import http.client
import socket
from http import HTTPStatus

HOST = "127.0.0.1"


class PortInUse(RuntimeError):
    """A port that was asked for is taken; the text names it and says what to do."""


def free_ports(count: int) -> list[int]:
    """So many different ports that nothing listens on at this moment."""
    with contextlib.ExitStack() as held:
        return [held.enter_context(_bound(0)).getsockname()[1] for _ in range(count)]


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    try:
        with _bound(port):
            return True
    except OSError:
        return False


def require_free(port: int, service: str, option: str) -> None:
    """Raises PortInUse, with the words for a person, where this port is taken."""
    if not is_free(port):
        raise PortInUse(
            f"port {port}, which {service} is to listen on, is in use by another process; "
            f"stop that one, or choose another port with {option}, or leave the option out and a free one is taken."
        )


def accepts(port: int, host: str = HOST, timeout: float = 1.0) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=timeout):
            return True
    except OSError:
        return False


def _bound(port: int) -> socket.socket:
    # SO_REUSEADDR as servers set it: a connection that lingers in TIME_WAIT is no listener.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
    except OSError:
        bound.close()
        raise
    return bound


def says_ok(port: int, path: str) -> bool:
    """Whether a GET of this path on loopback is answered with 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)  # and not urllib, which may ask a proxy
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
