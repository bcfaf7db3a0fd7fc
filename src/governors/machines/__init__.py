"""The three governors as pure machines, and what stands above them: overlays, effects, policies."""
