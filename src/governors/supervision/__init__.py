"""Supervision after Erlang/OTP: children as values, strategies as values, a tree that can be read."""
