"""An append-only ledger of receipts: canonical bytes, hash chains, a Merkle tree, segments and recovery."""
