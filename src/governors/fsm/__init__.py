"""The engine of pure state machines: a table of rows, a step, a deadline. It knows no domain words."""
