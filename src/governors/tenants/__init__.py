"""Tenants as they live: records, the decision on one signal, mailboxes, timers, activation and passivation."""
