"""What bytes mean: receipts, canonical JSON, chains, the Merkle tree, segments. Pure: no I/O, no clock."""
