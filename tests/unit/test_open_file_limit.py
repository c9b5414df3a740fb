"""The limit of open files: raised where that is allowed, else a sentence that says what to do."""

import subprocess
import sys

_PROGRAM = """
import resource
from kafka_http.broker.open_file_limit import OpenFileLimit
from kafka_http.errors import Unavailable
resource.setrlimit(resource.RLIMIT_NOFILE, (600, 1000))
descriptors = OpenFileLimit(3, "consumer instances")
for count in (10, 100, 1000):
    try:
        descriptors.check(count)
        print(count, resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 512 + 3 * count)
    except Unavailable as error:
        print(error.message)
"""


def test_open_file_limit_is_raised_or_explained() -> None:
    run = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "10 True",
        "100 True",
        "The limit of open files is too low for 1000 consumer instances: 3512 needed, limit 1000. "
        "Raise it (ulimit -n, or LimitNOFILE= of systemd).",
    ]
