"""kafka-python's connections, mended where a broker is gone, or says why it refuses one (seen in 3.0.12)."""

from functools import partial
from typing import Any

from kafka.errors import KafkaConnectionError
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from connectors.kafka.errors import remedy

#: How often a client that is cut off looks whether it still is, in seconds.
CUT_OFF_DELAY = 0.2


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
    """Ends a client's tries to connect once a broker has given a reason that waiting does not mend.

    And makes none after one was lost, while `reconnecting` is false: requests that are tried again by themselves then
    reach nobody who does not know what came before them.
    """

    #: Whether a connection was lost that had been made.
    lost = False
    reconnecting = True

    @property
    def cut_off(self) -> bool:
        return self.lost and not self.reconnecting

    def connection_delay(self, node_id: Any) -> float:
        return CUT_OFF_DELAY if self.cut_off else float(super().connection_delay(node_id))

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        transport = await super()._build_transport(node, timeout_at=timeout_at)
        transport._sock_recv = partial(_last_words, transport._sock_recv)
        return transport

    async def _connect(self, node: Any, connection: Any, **options: Any) -> None:
        await super()._connect(node, connection, **options)
        if connection.init_future.succeeded():
            connection.close_future.add_errback(self._note_loss)
        # It looks for an exception, but a refused login is only noted in the connection's future.
        refusal = connection.init_future.exception
        if refusal is not None and remedy(refusal) is not None:
            self._auth_failures[node.node_id] = refusal

    def _note_loss(self, _: BaseException) -> None:
        self.lost = True


def _last_words(receive: Any) -> tuple[bytes, Exception | None]:
    """What was received; that the broker closed the connection then is told by the next call.

    As it is, both at once are an error, and what was received is dropped: the reason of a refused login.
    """
    data, error = receive()
    return (data, None) if data else (data, error)
