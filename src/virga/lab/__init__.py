"""The founding case and other historical bugs, as switches on the same machinery."""
