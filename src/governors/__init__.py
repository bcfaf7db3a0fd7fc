"""The governor runtime: machines that decide, supervision that keeps them running, edges that serve."""
