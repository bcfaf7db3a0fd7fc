"""Fixtures that every folder of tests may take."""

pytest_plugins = ("support.emulator",)
