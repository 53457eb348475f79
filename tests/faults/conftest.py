"""Settings of the scripts in this folder."""

import logging

logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each of thousands of requests
