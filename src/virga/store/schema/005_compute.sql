-- Key pairs, aggregates, server groups, quotas: the columns are those of the Structs in domain/compute.py.
CREATE TABLE keypairs (
  user_id TEXT NOT NULL, name TEXT NOT NULL, number INTEGER NOT NULL, public_key TEXT NOT NULL, fingerprint TEXT NOT NULL, kind TEXT NOT NULL,
  created_at REAL NOT NULL, PRIMARY KEY (user_id, name));

CREATE TABLE aggregates (
  id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE, metadata TEXT NOT NULL, hosts TEXT NOT NULL,
  created_at REAL NOT NULL, updated_at REAL);

CREATE TABLE server_groups (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL, user_id TEXT NOT NULL, name TEXT NOT NULL, policy TEXT NOT NULL, rules TEXT NOT NULL,
  created_at REAL NOT NULL);
CREATE INDEX server_groups_by_project ON server_groups (project_id);

CREATE TABLE quota_limits (
  project_id TEXT NOT NULL, user_id TEXT NOT NULL, resource TEXT NOT NULL, "limit" INTEGER NOT NULL, PRIMARY KEY (project_id, user_id, resource));
CREATE TABLE quota_class_limits (
  class_name TEXT NOT NULL, resource TEXT NOT NULL, "limit" INTEGER NOT NULL, PRIMARY KEY (class_name, resource));
