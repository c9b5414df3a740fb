"""Apache Kafka behind HTTP.

The public interface is what `__all__` lists, and nothing else of the package. `create_app(config)` makes the WSGI
application, a Flask object; `Config` has its settings:

    from kafka_http import Config, create_app

    app = create_app(Config(bootstrap_servers=("kafka1:9092",)))

Names are imported at their first use, so that `import kafka_http` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Config", "__version__", "create_app"]

__version__ = "1.4.0"

_MODULES = {"Config": "kafka_http.config", "create_app": "kafka_http.app"}

if TYPE_CHECKING:
    from kafka_http.app import create_app
    from kafka_http.config import Config
else:  # a type checker would take any name from it

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)
