"""The log of our own processes: lines of text for people, or JSON for collectors, each with its request's id."""

from __future__ import annotations

import json
import logging
import warnings
from contextvars import ContextVar
from datetime import UTC, datetime

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request that the current task works on; the access log sets it. Tasks and ``to_thread`` inherit it."""

LOG_FORMATS = ("text", "json")


class TextFormatter(logging.Formatter):
    """``INFO 11-27 23:59:18 REQUEST-ID MESSAGE``; the id is left out where there is none."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(asctime)s %(message)s", datefmt="%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = " ".join(filter(None, (REQUEST_ID.get(), _message(record))))
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (ISO 8601, UTC), level, logger, message, request_id, and exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            "request_id": REQUEST_ID.get(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def set_up(log_format: str = "text") -> None:
    """Configures the log of a process of our own, on stderr; may be called again with another of `LOG_FORMATS`."""
    logging.basicConfig()
    formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:  # a test's handlers are subclasses
            handler.setFormatter(formatter)
    logging.getLogger("llamagen_server").setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # its warnings are about what clients send
    ignore_warnings_about_files()


def ignore_warnings_about_files() -> None:
    """Keeps Pillow's warnings about the metadata of image files out of the log, for the whole process.

    Files are read in several threads, and `warnings.catch_warnings` is not safe there.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _message(record: logging.LogRecord) -> str:
    """Returns the message without the request's id, which the access log starts with for hosts with other formats."""
    message, request_id = record.getMessage(), REQUEST_ID.get()
    return message.removeprefix(f"{request_id} ") if request_id else message
