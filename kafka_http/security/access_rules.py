"""The access rules in the settings: `[access."pattern of principals"]`."""

from kafka_http.security.access import ALL_RIGHTS, Rights
from kafka_http.security.principal import Principal


class AllowAll:
    """The rules without `[access]`: each authenticated principal may do everything."""

    def rights_of(self, principal: Principal, address: str) -> Rights:
        return ALL_RIGHTS
