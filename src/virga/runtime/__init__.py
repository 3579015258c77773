"""The only door to time, chance, tasks and the trace of what happened."""
