"""The front doors: route tables and thin handlers for the OpenStack APIs."""
