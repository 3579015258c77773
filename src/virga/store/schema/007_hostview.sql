-- Where routers are (domain/hostview.py).
CREATE TABLE router_places (
    router_id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    updated_at REAL NOT NULL
) STRICT;
