"""Actions on their way out: kept until their receipt is committed, then carried out, their results told back."""
