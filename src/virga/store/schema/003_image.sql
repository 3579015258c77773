-- Images, who they are shared with, and import tasks: the columns are those of the Structs in domain/image.py.
CREATE TABLE images (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, status TEXT NOT NULL, name TEXT, visibility TEXT NOT NULL, container_format TEXT, disk_format TEXT,
  min_disk INTEGER NOT NULL, min_ram INTEGER NOT NULL, size INTEGER, virtual_size INTEGER, checksum TEXT, os_hash_algo TEXT, os_hash_value TEXT,
  protected INTEGER NOT NULL, os_hidden INTEGER NOT NULL, tags TEXT NOT NULL, properties TEXT NOT NULL, blob TEXT NOT NULL, staged TEXT NOT NULL,
  created_at REAL NOT NULL, updated_at REAL NOT NULL);
CREATE INDEX images_by_owner ON images (owner, created_at);
CREATE INDEX images_by_visibility ON images (visibility, created_at);

CREATE TABLE images_deleted (id TEXT PRIMARY KEY, deleted_at REAL NOT NULL);

CREATE TABLE image_members (
  image_id TEXT NOT NULL, member_id TEXT NOT NULL, status TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL,
  PRIMARY KEY (image_id, member_id));
CREATE INDEX image_members_by_member ON image_members (member_id);

CREATE TABLE image_tasks (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, status TEXT NOT NULL, owner TEXT NOT NULL, user_id TEXT NOT NULL, request_id TEXT NOT NULL,
  image_id TEXT, input TEXT NOT NULL, result TEXT, message TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL, expires_at REAL);
CREATE INDEX image_tasks_by_image ON image_tasks (image_id);

-- Metadata definitions: domain/metadef.py.
CREATE TABLE metadef_namespaces (
  namespace TEXT PRIMARY KEY, owner TEXT NOT NULL, visibility TEXT NOT NULL, display_name TEXT, description TEXT, protected INTEGER NOT NULL,
  created_at REAL NOT NULL, updated_at REAL NOT NULL);
CREATE TABLE metadef_parts (
  namespace TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL,
  PRIMARY KEY (namespace, kind, name));
