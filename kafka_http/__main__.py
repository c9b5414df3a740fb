"""`python -m kafka_http` is the command `kafka-http`."""

import sys

from kafka_http.cli.main import main

sys.exit(main())
