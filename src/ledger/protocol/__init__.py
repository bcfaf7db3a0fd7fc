"""What to do next, as pure functions: on a reply to a head write, on a lease, on a log that was found at takeover."""
