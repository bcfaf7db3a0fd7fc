"""Object stores: where a log is kept beside the machine that writes it. See `object_store` for what they promise."""
