"""A recorded hour of five tenants, played through a real service: `governors demo`."""
