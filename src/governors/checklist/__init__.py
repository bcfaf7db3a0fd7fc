"""The deployment checklist: its lines, how each of them is looked at, and the report that people sign."""
