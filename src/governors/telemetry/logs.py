"""The process's log: one JSON object a line in Cloud Logging's field names, or plain text for a terminal.

Everything goes through the standard library's root logger, so that uvicorn's and Google's entries look like ours. The
field names are those that Cloud Logging's agents lift out of a container's output:
https://cloud.google.com/logging/docs/structured-logging#structured_logging_special_fields
"""

import io
import json
import logging
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import orjson
import structlog

LABELS: Final = "logging.googleapis.com/labels"
SOURCE_LOCATION: Final = "logging.googleapis.com/sourceLocation"
# Searched for by value, so they become labels, which Cloud Logging indexes; other keys stay in the payload.
_LABEL_KEYS: Final = ("tenant", "governor", "partition", "child")
# A key that ends so carries something that must not be kept, whoever logged it.
_SECRET_ENDINGS: Final = ("authorization", "password", "secret", "token", "private_key", "api_key")
_MASK: Final = "********"

EventDict = MutableMapping[str, Any]


def configure_logging(
    level: Literal["debug", "info", "warning", "error"],
    format: Literal["auto", "json", "console"],  # noqa: A002 - the setting's own name
    stream: TextIO | None = None,
) -> None:
    """Send every log of the process to `stream` (standard output by default). Call it once, before the first entry."""
    out = sys.stdout if stream is None else stream
    console = format == "console" or (format == "auto" and out.isatty())
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="backslashreplace")  # text that is not Unicode must not cost the entry
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        mask_secrets,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a logger made before this call must not keep the old configuration
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=_console(out) if console else [cloud_logging_entry, _json]
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # uvicorn brings handlers of its own and does not propagate; its access log would be a line for every request, whose
    # query strings name users. The request metrics tell more for less.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"
    # Google's clients cut their loggers off from the root when they are imported, unless somebody gave them a level.
    google = logging.getLogger("google")
    google.setLevel(root.level)
    google.propagate = True
    # One line for every HTTP request that an executor makes is noise; its own entry says what came of it.
    for name in ("httpx", "httpcore", "google.auth"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def mask_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Hide the value of every key that is named like a secret, one level down as well."""
    for key, value in event.items():
        if key.lower().endswith(_SECRET_ENDINGS):
            event[key] = _MASK
        elif isinstance(value, dict):
            event[key] = {
                name: _MASK if str(name).lower().endswith(_SECRET_ENDINGS) else one for name, one in value.items()
            }
    return event


def cloud_logging_entry(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """A record as Cloud Logging's `severity`, `message`, `time`, and the special fields that apply."""
    record: logging.LogRecord = event.pop("_record")
    event.pop("_from_structlog", None)
    event.pop("color_message", None)  # uvicorn's message once more, with a terminal's colours
    entry: dict[str, Any] = {
        "severity": record.levelname,
        "message": str(event.pop("event", "")),
        "time": _rfc3339(record.created),
        "logger": event.pop("logger", record.name),
    }
    labels = {key: str(event.pop(key)) for key in _LABEL_KEYS if event.get(key) is not None}
    if labels:
        entry[LABELS] = labels
    if record.levelno >= logging.WARNING and not record.pathname.startswith("<"):
        entry[SOURCE_LOCATION] = {"file": record.pathname, "line": str(record.lineno), "function": record.funcName}
    failure = event.pop("exc_info", None) or record.exc_info
    if failure:
        # Error Reporting groups entries by this field.
        entry["stack_trace"] = _traceback(failure)
    event.pop("stack_info", None)
    # What an entry says of itself never hides the fields that the agents rely on.
    return {**event, **entry}


def _traceback(failure: Any) -> str:
    if failure is True:
        failure = sys.exc_info()
    elif isinstance(failure, BaseException):
        failure = (type(failure), failure, failure.__traceback__)
    return logging.Formatter().formatException(failure)


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _json(_logger: Any, _method: str, entry: EventDict) -> str:
    try:
        return orjson.dumps(entry, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:  # a lone surrogate in somebody's text: the slow encoder escapes it
        return json.dumps(entry, default=str)


def _console_time(_logger: Any, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = _rfc3339(event["_record"].created)
    return event


def _console(out: TextIO) -> list[Any]:
    return [
        _console_time,
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.stdlib.add_log_level,
        # Not the renderer's own traceback: that one prints local variables, and so whatever secret is in them.
        structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback),
    ]
