"""The whole cloud under virtual time, with seeds, faults and invariants."""
