"""Several workers over one store: who is there, who has the log, and what the others do meanwhile."""
