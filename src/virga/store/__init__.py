"""The truth: rows, transactions and schema; the only room with SQL."""
