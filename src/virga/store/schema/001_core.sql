-- Servers, ports, hosts, operations: the columns are those of the Structs in domain/ (a test compares them).
CREATE TABLE flavors (
  id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, vcpus INTEGER NOT NULL, ram_mb INTEGER NOT NULL, disk_gb INTEGER NOT NULL,
  ephemeral_gb INTEGER NOT NULL, swap_mb INTEGER NOT NULL, rxtx_factor REAL NOT NULL, is_public INTEGER NOT NULL,
  disabled INTEGER NOT NULL, description TEXT, extra_specs TEXT NOT NULL, projects TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL);

CREATE TABLE servers (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL, user_id TEXT NOT NULL, name TEXT NOT NULL, flavor TEXT NOT NULL, image_id TEXT,
  host TEXT, vm_state TEXT NOT NULL, task_state TEXT, power_state INTEGER NOT NULL, epoch INTEGER NOT NULL, operation_id TEXT,
  old_flavor TEXT, old_vm_state TEXT, fault TEXT, key_name TEXT, key_public TEXT, user_data TEXT, config_drive INTEGER NOT NULL,
  availability_zone TEXT, requested_host TEXT, server_group_id TEXT, hostname TEXT NOT NULL, description TEXT, metadata TEXT NOT NULL,
  tags TEXT NOT NULL, locked INTEGER NOT NULL, locked_reason TEXT, locked_by TEXT, progress INTEGER NOT NULL, disk_config TEXT NOT NULL,
  access_ipv4 TEXT, access_ipv6 TEXT, reservation_id TEXT NOT NULL, launch_index INTEGER NOT NULL, security_groups TEXT NOT NULL,
  scheduler_hints TEXT NOT NULL, trusted_certs TEXT, admin_pass TEXT, created_at REAL NOT NULL, updated_at REAL, launched_at REAL,
  deleted_at REAL);
CREATE INDEX servers_by_project ON servers (project_id, deleted_at, created_at);
CREATE INDEX servers_by_host ON servers (host, deleted_at);

CREATE TABLE ports (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL, network_id TEXT NOT NULL, mac_address TEXT NOT NULL, name TEXT NOT NULL,
  description TEXT NOT NULL, admin_state_up INTEGER NOT NULL, device_id TEXT NOT NULL, device_owner TEXT NOT NULL, fixed_ips TEXT NOT NULL,
  security_groups TEXT NOT NULL, allowed_address_pairs TEXT NOT NULL, extra_dhcp_opts TEXT NOT NULL, port_security_enabled INTEGER NOT NULL,
  vnic_type TEXT NOT NULL, profile TEXT NOT NULL, host TEXT NOT NULL, dns_name TEXT NOT NULL, tags TEXT NOT NULL, preserve INTEGER NOT NULL,
  revision_number INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL, binding_generation INTEGER NOT NULL);
CREATE INDEX ports_by_device ON ports (device_id);
CREATE INDEX ports_by_network ON ports (network_id);
CREATE INDEX ports_by_project ON ports (project_id);

CREATE TABLE ip_allocations (
  subnet_id TEXT NOT NULL, ip_address TEXT NOT NULL, network_id TEXT NOT NULL, port_id TEXT NOT NULL, PRIMARY KEY (subnet_id, ip_address));
CREATE INDEX ip_allocations_by_port ON ip_allocations (port_id);
CREATE TABLE mac_allocations (
  network_id TEXT NOT NULL, mac_address TEXT NOT NULL, port_id TEXT NOT NULL, PRIMARY KEY (network_id, mac_address));
CREATE INDEX mac_allocations_by_port ON mac_allocations (port_id);

CREATE TABLE bindings (
  port_id TEXT NOT NULL, host TEXT NOT NULL, generation INTEGER NOT NULL, state TEXT NOT NULL, vif_type TEXT NOT NULL, vnic_type TEXT NOT NULL,
  profile TEXT NOT NULL, updated_at REAL NOT NULL, PRIMARY KEY (port_id, host));
CREATE INDEX bindings_by_host ON bindings (host);
-- rule: exactly one active binding a port, held by the database itself
CREATE UNIQUE INDEX bindings_one_active ON bindings (port_id) WHERE state = 'active';

CREATE TABLE wirings (
  port_id TEXT NOT NULL, host TEXT NOT NULL, generation INTEGER NOT NULL, wired INTEGER NOT NULL, revision INTEGER NOT NULL, detail TEXT NOT NULL,
  at REAL NOT NULL, PRIMARY KEY (port_id, host));
CREATE INDEX wirings_by_host ON wirings (host);

CREATE TABLE hosts (
  name TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, number INTEGER NOT NULL, disabled INTEGER NOT NULL, disabled_reason TEXT,
  forced_down INTEGER NOT NULL, availability_zone TEXT NOT NULL, vcpus INTEGER NOT NULL, ram_mb INTEGER NOT NULL, disk_gb INTEGER NOT NULL,
  cpu_ratio REAL NOT NULL, ram_ratio REAL NOT NULL, disk_ratio REAL NOT NULL, hypervisor_type TEXT NOT NULL, hypervisor_version INTEGER NOT NULL,
  address TEXT NOT NULL, boot_id TEXT NOT NULL, session INTEGER NOT NULL, revision INTEGER NOT NULL, detail TEXT NOT NULL,
  created_at REAL NOT NULL, updated_at REAL NOT NULL, seen_at REAL NOT NULL);

CREATE TABLE claims (
  host TEXT NOT NULL, owner TEXT NOT NULL, kind TEXT NOT NULL, server_id TEXT NOT NULL, vcpus INTEGER NOT NULL, ram_mb INTEGER NOT NULL,
  disk_gb INTEGER NOT NULL, PRIMARY KEY (host, owner));
CREATE INDEX claims_by_server ON claims (server_id);

CREATE TABLE operations (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, server_id TEXT NOT NULL, project_id TEXT NOT NULL, user_id TEXT NOT NULL, request_id TEXT NOT NULL,
  epoch INTEGER NOT NULL, state TEXT NOT NULL, position INTEGER NOT NULL, input TEXT NOT NULL, notes TEXT NOT NULL, waiting TEXT NOT NULL,
  waiting_since REAL, deadline_at REAL, error TEXT NOT NULL, owner TEXT NOT NULL, lease_until REAL NOT NULL, started_at REAL NOT NULL, ended_at REAL);
-- whole, not partial: a partial index is not used for a condition whose value is bound
CREATE INDEX operations_by_state ON operations (state);
CREATE INDEX operations_by_server ON operations (server_id, started_at);
-- rule: at most one open operation holds a server
CREATE UNIQUE INDEX operations_one_a_server ON operations (server_id) WHERE state IN ('running', 'undoing');

CREATE TABLE steps (
  operation_id TEXT NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL, begun_at REAL NOT NULL, ended_at REAL,
  undo_begun_at REAL, undone_at REAL, error TEXT NOT NULL, ended_by TEXT NOT NULL, PRIMARY KEY (operation_id, position));

CREATE TABLE commands (
  id TEXT PRIMARY KEY, host TEXT NOT NULL, verb TEXT NOT NULL, server_id TEXT NOT NULL, operation_id TEXT NOT NULL, step TEXT NOT NULL,
  epoch INTEGER NOT NULL, number INTEGER NOT NULL, state TEXT NOT NULL, args TEXT NOT NULL, error TEXT NOT NULL, result TEXT NOT NULL,
  made_at REAL NOT NULL, ended_at REAL);
CREATE INDEX commands_by_outbox ON commands (host, state, number);
CREATE INDEX commands_by_operation ON commands (operation_id);
CREATE INDEX commands_by_server ON commands (server_id, state);

CREATE TABLE guests (
  server_id TEXT NOT NULL, host TEXT NOT NULL, state TEXT NOT NULL, epoch INTEGER NOT NULL, disk INTEGER NOT NULL, revision INTEGER NOT NULL,
  detail TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (server_id, host));
CREATE INDEX guests_by_host ON guests (host);

CREATE TABLE migrations (
  id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, server_id TEXT NOT NULL, project_id TEXT NOT NULL, user_id TEXT NOT NULL, kind TEXT NOT NULL,
  status TEXT NOT NULL, source TEXT NOT NULL, dest TEXT NOT NULL, old_flavor_id TEXT NOT NULL, new_flavor_id TEXT NOT NULL,
  operation_id TEXT NOT NULL, source_generations TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL);
CREATE INDEX migrations_by_server ON migrations (server_id);

CREATE TABLE actions (
  server_id TEXT NOT NULL, request_id TEXT NOT NULL, action TEXT NOT NULL, project_id TEXT NOT NULL, user_id TEXT NOT NULL, started_at REAL NOT NULL,
  updated_at REAL, message TEXT, operation_id TEXT NOT NULL, PRIMARY KEY (server_id, request_id, action));
CREATE TABLE action_events (
  server_id TEXT NOT NULL, request_id TEXT NOT NULL, name TEXT NOT NULL, started_at REAL NOT NULL, finished_at REAL, result TEXT, host TEXT,
  detail TEXT, PRIMARY KEY (server_id, request_id, name));

CREATE TABLE events (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, src TEXT NOT NULL, dst TEXT NOT NULL, text TEXT NOT NULL, parent INTEGER NOT NULL,
  server TEXT NOT NULL, operation TEXT NOT NULL, request TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX events_by_server ON events (server, id);

CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
