"""Who asks, and what they may. Knows tokens, roles and tenants; nothing of HTTP and nothing of machines."""
