-- Join tokens (used once) and the hosts whose certificates count.
CREATE TABLE join_tokens (digest TEXT PRIMARY KEY, expires_at REAL NOT NULL, created_at REAL NOT NULL, used_by TEXT NOT NULL, used_at REAL);
CREATE TABLE host_certificates (host_id TEXT PRIMARY KEY, host TEXT NOT NULL, expires_at REAL NOT NULL, created_at REAL NOT NULL);
CREATE INDEX host_certificates_by_host ON host_certificates (host);
