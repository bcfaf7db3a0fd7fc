"""The HTTP edge: routes, what they answer, and how errors become problem documents."""
