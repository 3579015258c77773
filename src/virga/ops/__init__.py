"""Durable procedures: every decision is made here, inside a transaction."""
