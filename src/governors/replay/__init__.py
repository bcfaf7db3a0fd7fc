"""Decisions run again: from a log's own signals and policies, by the code that took them, compared byte for byte."""
