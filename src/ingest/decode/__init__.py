"""Wire bytes to signals: pure functions, one module for each wire format."""
