"""Exit code 0 if the service of this container is ready."""

import http.client
import os
import sys

# Not by urllib, which would ask a proxy that the environment names.
connection = http.client.HTTPConnection(
    "127.0.0.1", int(os.environ.get("COOC_PORT") or 8000), timeout=4
)
try:
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    sys.exit(0 if answer.status == 200 else answer.read().decode())
except OSError as error:
    sys.exit(f"the service does not answer: {error}")
