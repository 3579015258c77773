-- Identity: the columns are those of the Structs in domain/identity.py (a test compares them).
CREATE TABLE projects (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, domain_id TEXT NOT NULL, parent_id TEXT NOT NULL, is_domain INTEGER NOT NULL,
  description TEXT NOT NULL, enabled INTEGER NOT NULL, tags TEXT NOT NULL, options TEXT NOT NULL, extra TEXT NOT NULL,
  created_at REAL NOT NULL, UNIQUE (domain_id, name));
CREATE INDEX projects_by_parent ON projects (parent_id);

CREATE TABLE users (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, domain_id TEXT NOT NULL, enabled INTEGER NOT NULL, password_hash TEXT,
  password_changed_at REAL, default_project_id TEXT, description TEXT, options TEXT NOT NULL, extra TEXT NOT NULL,
  created_at REAL NOT NULL, failures INTEGER NOT NULL, failed_at REAL, old_hashes TEXT NOT NULL, UNIQUE (domain_id, name));

CREATE TABLE user_groups (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, domain_id TEXT NOT NULL, description TEXT NOT NULL, extra TEXT NOT NULL,
  created_at REAL NOT NULL, UNIQUE (domain_id, name));
CREATE TABLE memberships (group_id TEXT NOT NULL, user_id TEXT NOT NULL, PRIMARY KEY (group_id, user_id));
CREATE INDEX memberships_by_user ON memberships (user_id);

CREATE TABLE roles (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, domain_id TEXT NOT NULL, description TEXT, options TEXT NOT NULL,
  extra TEXT NOT NULL, created_at REAL NOT NULL, UNIQUE (domain_id, name));
CREATE TABLE role_implications (prior_id TEXT NOT NULL, implied_id TEXT NOT NULL, PRIMARY KEY (prior_id, implied_id));
CREATE TABLE role_assignments (
  actor_kind TEXT NOT NULL, actor_id TEXT NOT NULL, target_kind TEXT NOT NULL, target_id TEXT NOT NULL, role_id TEXT NOT NULL,
  inherited INTEGER NOT NULL, PRIMARY KEY (actor_kind, actor_id, target_kind, target_id, role_id, inherited));
CREATE INDEX role_assignments_by_target ON role_assignments (target_kind, target_id);

CREATE TABLE tokens (
  digest TEXT PRIMARY KEY, user_id TEXT NOT NULL, scope_kind TEXT NOT NULL, scope_id TEXT NOT NULL, methods TEXT NOT NULL,
  audit_ids TEXT NOT NULL, application_credential_id TEXT, trust_id TEXT, issued_at REAL NOT NULL, expires_at REAL NOT NULL);
CREATE INDEX tokens_by_user ON tokens (user_id);
CREATE INDEX tokens_by_scope ON tokens (scope_kind, scope_id);
CREATE INDEX tokens_by_expiry ON tokens (expires_at);

CREATE TABLE application_credentials (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, user_id TEXT NOT NULL, project_id TEXT NOT NULL, description TEXT,
  secret_hash TEXT NOT NULL, role_ids TEXT NOT NULL, unrestricted INTEGER NOT NULL, access_rule_ids TEXT, expires_at REAL,
  created_at REAL NOT NULL, UNIQUE (user_id, name));

CREATE TABLE access_rules (
  id TEXT PRIMARY KEY, user_id TEXT NOT NULL, service TEXT NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL,
  UNIQUE (user_id, service, method, path));
CREATE TABLE trusts (
  id TEXT PRIMARY KEY, trustor_user_id TEXT NOT NULL, trustee_user_id TEXT NOT NULL, project_id TEXT NOT NULL,
  impersonation INTEGER NOT NULL, role_ids TEXT NOT NULL, remaining_uses INTEGER, expires_at REAL, created_at REAL NOT NULL);
CREATE INDEX trusts_by_trustor ON trusts (trustor_user_id);
CREATE INDEX trusts_by_trustee ON trusts (trustee_user_id);

CREATE TABLE catalog_regions (
  id TEXT PRIMARY KEY, parent_region_id TEXT, description TEXT NOT NULL, extra TEXT NOT NULL);
CREATE TABLE catalog_services (
  id TEXT PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL, description TEXT, enabled INTEGER NOT NULL, extra TEXT NOT NULL);
CREATE TABLE catalog_endpoints (
  id TEXT PRIMARY KEY, service_id TEXT NOT NULL, interface TEXT NOT NULL, region_id TEXT, url TEXT NOT NULL,
  enabled INTEGER NOT NULL, extra TEXT NOT NULL);
CREATE INDEX catalog_endpoints_by_service ON catalog_endpoints (service_id);

CREATE TABLE endpoint_groups (id TEXT PRIMARY KEY, name TEXT NOT NULL, description TEXT, filters TEXT NOT NULL);
CREATE TABLE project_endpoints (
  project_id TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (project_id, kind, id));

CREATE TABLE credentials (
  id TEXT PRIMARY KEY, type TEXT NOT NULL, user_id TEXT NOT NULL, project_id TEXT, blob TEXT NOT NULL, extra TEXT NOT NULL,
  created_at REAL NOT NULL);
CREATE INDEX credentials_by_user ON credentials (user_id);
CREATE TABLE policies (id TEXT PRIMARY KEY, type TEXT NOT NULL, blob TEXT NOT NULL, extra TEXT NOT NULL);

-- rule: bumped in the same transaction as any change that could make a cached token answer wrong
CREATE TABLE identity_epoch (id INTEGER PRIMARY KEY CHECK (id = 1), value INTEGER NOT NULL);
INSERT INTO identity_epoch (id, value) VALUES (1, 1);
