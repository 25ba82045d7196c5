"""kafka-python's connections, mended where a broker is gone, or says why it refuses one (seen in 3.0.12)."""

from functools import partial
from typing import Any

from kafka.errors import KafkaConnectionError
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from connectors.kafka.errors import remedy


def network(**configs: Any) -> KafkaNetClient:
    """What kafka-python's clients take for `kafka_client`."""
    net = NetworkSelector(**configs)
    return Network(net=net, manager=Connections(net, **configs), **configs)


class Network(KafkaNetClient):  # type: ignore[misc]  # it has no types
    """Says whether a node is ready, as the sender of transactions expects."""

    def await_ready(self, node_id: Any, timeout_ms: float = 30_000) -> bool:
        # As it is, it raises, and the sender forgets the request that it wanted to send.
        try:
            return bool(super().await_ready(node_id, timeout_ms))
        except KafkaConnectionError:
            return False


class Connections(KafkaConnectionManager):  # type: ignore[misc]  # it has no types
    """Ends a client's tries to connect once a broker has given a reason that waiting does not mend."""

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        transport = await super()._build_transport(node, timeout_at=timeout_at)
        transport._sock_recv = partial(_last_words, transport._sock_recv)
        return transport

    async def _connect(self, node: Any, connection: Any, **options: Any) -> None:
        await super()._connect(node, connection, **options)
        # It looks for an exception, but a refused login is only noted in the connection's future.
        refusal = connection.init_future.exception
        if refusal is not None and remedy(refusal) is not None:
            self._auth_failures[node.node_id] = refusal


def _last_words(receive: Any) -> tuple[bytes, Exception | None]:
    """What was received; that the broker closed the connection then is told by the next call.

    As it is, both at once are an error, and what was received is dropped: the reason of a refused login.
    """
    data, error = receive()
    return (data, None) if data else (data, error)
