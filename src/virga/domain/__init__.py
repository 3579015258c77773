"""Pure rules: (state, fact) in, (state, commands) out; no I/O, no clock."""
