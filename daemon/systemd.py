"""Word to systemd: ready, alive, stopping. See sd_notify(3)."""

import os
import socket

import structlog

log = structlog.get_logger(__name__)

#: How long a message may wait for systemd to read earlier ones, in seconds: the daemon must not hang on it.
TIMEOUT = 2.0


def notify(state: str) -> None:
    """Send `state`, as `READY=1`; nothing when systemd did not start this process."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as systemd:
        systemd.settimeout(TIMEOUT)
        # A leading @ stands for the zero byte of an abstract address.
        try:
            systemd.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            systemd.sendall(state.encode())
        except OSError as error:
            log.warning("systemd not told", state=state, because=str(error))
