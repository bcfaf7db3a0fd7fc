"""Entries as a log agent reads them."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import structlog
from google.api_core.client_logging import setup_logging

from governors.telemetry.logs import LABELS, SOURCE_LOCATION, configure_logging


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    uvicorn = logging.getLogger("uvicorn.access")
    propagate = uvicorn.propagate
    yield
    root.handlers[:], root.level = handlers, level
    uvicorn.propagate = propagate
    structlog.reset_defaults()


def entries(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_an_entry_has_cloud_loggings_field_names() -> None:
    out = io.StringIO()
    configure_logging("info", "json", out)
    structlog.get_logger("governors.test").info("tenant quarantined", tenant="acme", restarts=4)
    (entry,) = entries(out)
    assert entry["severity"] == "INFO"
    assert entry["message"] == "tenant quarantined"
    assert entry["restarts"] == 4
    assert entry[LABELS] == {"tenant": "acme"}
    assert entry["logger"] == "governors.test"
    assert datetime.fromisoformat(entry["time"]).tzinfo is not None
    assert "event" not in entry


def test_the_standard_librarys_entries_look_the_same() -> None:
    out = io.StringIO()
    configure_logging("info", "json", out)
    extra = {"color_message": "Started server process [\x1b[36m%d\x1b[0m]"}
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 42, extra=extra)
    logging.getLogger("google.cloud.pubsub").warning("slow", extra={"tenant": "acme"})
    started, slow = entries(out)
    assert started["message"] == "Started server process [42]"
    assert started["severity"] == "INFO"
    assert "color_message" not in started
    assert slow["severity"] == "WARNING"
    assert slow[LABELS] == {"tenant": "acme"}


def test_access_logs_are_not_written_because_query_strings_name_users() -> None:
    out = io.StringIO()
    configure_logging("debug", "json", out)
    logging.getLogger("uvicorn.access").info("GET /v1/admit?user=alice")
    assert out.getvalue() == ""


def test_a_warning_says_where_it_was_written() -> None:
    out = io.StringIO()
    configure_logging("info", "json", out)
    structlog.get_logger().warning("slow disk")
    (entry,) = entries(out)
    assert entry[SOURCE_LOCATION]["file"].endswith("test_logs.py")
    assert entry[SOURCE_LOCATION]["function"] == "test_a_warning_says_where_it_was_written"


def test_an_exception_comes_with_its_stack_trace_on_one_line() -> None:
    out = io.StringIO()
    configure_logging("info", "json", out)
    try:
        int("disk on fire")
    except ValueError:
        structlog.get_logger().exception("commit failed")
    (entry,) = entries(out)
    assert entry["severity"] == "ERROR"
    assert entry["message"] == "commit failed"
    assert entry["stack_trace"].endswith("with base 10: 'disk on fire'")


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_is_named_like_a_secret_is_masked(form: Any) -> None:
    out = io.StringIO()
    configure_logging("info", form, out)
    structlog.get_logger().info("call", Authorization="Bearer hush", headers={"X-Api_Key": "hush"}, push_token="hush")
    logging.getLogger("google.auth.x").warning("call", extra={"client_secret": "hush"})
    assert "hush" not in out.getvalue()
    assert out.getvalue().count("********") == 4


def test_a_console_traceback_does_not_print_local_variables() -> None:
    out = io.StringIO()
    configure_logging("info", "console", out)
    try:
        hidden = "hush"
        int(hidden[:2])
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "ValueError: invalid literal" in out.getvalue()
    assert "hidden = 'hush'" not in out.getvalue()


def test_an_entry_survives_text_that_is_not_unicode_and_numbers_of_any_size() -> None:
    out = io.StringIO()
    configure_logging("info", "json", out)
    structlog.get_logger().info("odd", text="\ud800", number=2**80)
    (entry,) = entries(out)
    assert entry["message"] == "odd"
    assert entry["severity"] == "INFO"


def test_an_entrys_own_keys_never_hide_the_fields_that_agents_rely_on() -> None:
    out = io.StringIO()
    configure_logging("info", "json", out)
    structlog.get_logger().error("refused", severity="DEBUG", time="never", message="other")
    (entry,) = entries(out)
    assert entry["severity"] == "ERROR"
    assert entry["message"] == "refused"
    assert entry["time"] != "never"


def test_entries_below_the_level_are_not_written() -> None:
    out = io.StringIO()
    configure_logging("warning", "json", out)
    structlog.get_logger().info("quiet")
    logging.getLogger("google").info("quiet")
    assert out.getvalue() == ""


def test_auto_writes_json_where_there_is_no_terminal_and_text_where_there_is() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    pipe, terminal = io.StringIO(), Terminal()
    configure_logging("info", "auto", pipe)
    structlog.get_logger().info("hello")
    configure_logging("info", "auto", terminal)
    structlog.get_logger().info("hello")
    assert json.loads(pipe.getvalue())["message"] == "hello"
    assert "hello" in terminal.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(terminal.getvalue())


def test_googles_clients_do_not_cut_their_entries_off() -> None:
    out = io.StringIO()
    configure_logging("info", "json", out)
    setup_logging()
    logging.getLogger("google.cloud.pubsub").warning("slow")
    setup_logging()
    configure_logging("info", "json", out)
    logging.getLogger("google.cloud.pubsub").warning("slower")
    assert [entry["message"] for entry in entries(out)] == ["slow", "slower"]
