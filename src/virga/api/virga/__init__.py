"""Virga's own small API below /virga/v1: what OpenStack has no call for - what happened, what is awaited, what a disk holds."""
