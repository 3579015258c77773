"""The hands on one host: every effect on guests, wires and disks."""
