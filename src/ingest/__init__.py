"""What a signal is, how wire formats become signals, and the sources that yield them in batches."""
