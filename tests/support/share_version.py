"""The feature `share.version` of a cluster, which switches share groups on and off."""

from contextlib import closing
from typing import Any

from kafka.net.manager import KafkaConnectionManager
from kafka.protocol.admin import UpdateFeaturesRequest

from kafka_http.broker.client_settings import connection_settings
from kafka_http.broker.connections import ConnectionPool, ask_any
from kafka_http.config import Config

_UPGRADE, _UNSAFE_DOWNGRADE = 1, 3


def set_share_version(config: Config, level: int) -> None:
    """Switch share groups off (0) or on (1). Brokers learn it a moment later."""
    new_request: Any = UpdateFeaturesRequest
    update = new_request.FeatureUpdateKey(
        feature="share.version",
        max_version_level=level,
        allow_downgrade=not level,
        upgrade_type=_UPGRADE if level else _UNSAFE_DOWNGRADE,
    )
    request = new_request(timeout_ms=5000, feature_updates=[update], validate_only=False)

    async def ask(manager: KafkaConnectionManager) -> Any:
        return await ask_any(manager, request)

    with closing(ConnectionPool(connection_settings(config))) as connections:
        response = connections.run(ask)
        assert response.error_code == 0, response
