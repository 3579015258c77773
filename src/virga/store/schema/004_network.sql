-- The network room: the columns are those of the Structs in domain/network.py (a test compares them).
CREATE TABLE networks (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL, admin_state_up INTEGER NOT NULL,
  shared INTEGER NOT NULL, external INTEGER NOT NULL, is_default INTEGER NOT NULL, mtu INTEGER NOT NULL, network_type TEXT NOT NULL,
  physical_network TEXT, segmentation_id INTEGER, port_security_enabled INTEGER NOT NULL, dns_domain TEXT NOT NULL,
  availability_zone_hints TEXT NOT NULL, tags TEXT NOT NULL, revision_number INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL);
CREATE INDEX networks_by_project ON networks (project_id);
-- rule: at most one default external network
CREATE UNIQUE INDEX networks_one_default ON networks (is_default) WHERE is_default = 1;

-- rule: a segmentation id belongs to one network
CREATE TABLE segments (
  network_type TEXT NOT NULL, physical_network TEXT NOT NULL, segmentation_id INTEGER NOT NULL, network_id TEXT NOT NULL,
  PRIMARY KEY (network_type, physical_network, segmentation_id));
CREATE INDEX segments_by_network ON segments (network_id);

CREATE TABLE subnets (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL, network_id TEXT NOT NULL, ip_version INTEGER NOT NULL, cidr TEXT NOT NULL, name TEXT NOT NULL,
  description TEXT NOT NULL, gateway_ip TEXT, enable_dhcp INTEGER NOT NULL, allocation_pools TEXT NOT NULL, dns_nameservers TEXT NOT NULL,
  host_routes TEXT NOT NULL, ipv6_address_mode TEXT, ipv6_ra_mode TEXT, subnetpool_id TEXT, service_types TEXT NOT NULL, tags TEXT NOT NULL,
  revision_number INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL);
CREATE INDEX subnets_by_network ON subnets (network_id);
CREATE INDEX subnets_by_project ON subnets (project_id);
CREATE INDEX subnets_by_pool ON subnets (subnetpool_id) WHERE subnetpool_id IS NOT NULL;

CREATE TABLE subnet_pools (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL, ip_version INTEGER NOT NULL, prefixes TEXT NOT NULL, name TEXT NOT NULL,
  description TEXT NOT NULL, default_prefixlen INTEGER NOT NULL, min_prefixlen INTEGER NOT NULL, max_prefixlen INTEGER NOT NULL,
  default_quota INTEGER, address_scope_id TEXT, shared INTEGER NOT NULL, is_default INTEGER NOT NULL, tags TEXT NOT NULL,
  revision_number INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL);
-- rule: at most one default pool an IP version
CREATE UNIQUE INDEX subnet_pools_one_default ON subnet_pools (ip_version) WHERE is_default = 1;

CREATE TABLE address_scopes (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL, ip_version INTEGER NOT NULL, name TEXT NOT NULL, shared INTEGER NOT NULL,
  revision_number INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL);

CREATE TABLE address_groups (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL, addresses TEXT NOT NULL,
  revision_number INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL);

CREATE TABLE security_groups (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL, stateful INTEGER NOT NULL, tags TEXT NOT NULL,
  revision_number INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL);
CREATE INDEX security_groups_by_project ON security_groups (project_id);
-- rule: one default group a project
CREATE UNIQUE INDEX security_groups_one_default ON security_groups (project_id) WHERE name = 'default';

CREATE TABLE security_group_rules (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL, security_group_id TEXT NOT NULL, direction TEXT NOT NULL, ethertype TEXT NOT NULL,
  protocol TEXT, port_range_min INTEGER, port_range_max INTEGER, remote_ip_prefix TEXT, remote_group_id TEXT, remote_address_group_id TEXT,
  description TEXT NOT NULL, revision_number INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL);
CREATE INDEX security_group_rules_by_group ON security_group_rules (security_group_id);
CREATE INDEX security_group_rules_by_remote ON security_group_rules (remote_group_id) WHERE remote_group_id IS NOT NULL;

CREATE TABLE routers (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL, admin_state_up INTEGER NOT NULL,
  gateway_network_id TEXT, gateway_port_id TEXT, enable_snat INTEGER NOT NULL, routes TEXT NOT NULL, availability_zone_hints TEXT NOT NULL,
  tags TEXT NOT NULL, revision_number INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL);
CREATE INDEX routers_by_project ON routers (project_id);

CREATE TABLE floating_ips (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL, floating_network_id TEXT NOT NULL, floating_ip_address TEXT NOT NULL,
  floating_port_id TEXT NOT NULL, port_id TEXT, fixed_ip_address TEXT, router_id TEXT, description TEXT NOT NULL, dns_name TEXT NOT NULL,
  dns_domain TEXT NOT NULL, tags TEXT NOT NULL, revision_number INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL);
CREATE INDEX floating_ips_by_project ON floating_ips (project_id);
CREATE INDEX floating_ips_by_router ON floating_ips (router_id) WHERE router_id IS NOT NULL;
-- rule: a fixed address has at most one floating IP of a network
CREATE UNIQUE INDEX floating_ips_one_a_fixed_ip ON floating_ips (port_id, fixed_ip_address, floating_network_id) WHERE port_id IS NOT NULL;

CREATE TABLE rbac_policies (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL, object_type TEXT NOT NULL, object_id TEXT NOT NULL, action TEXT NOT NULL,
  target_project TEXT NOT NULL, revision_number INTEGER NOT NULL, created_at REAL NOT NULL, UNIQUE (object_type, object_id, action, target_project));
CREATE INDEX rbac_policies_by_target ON rbac_policies (target_project, object_type);

CREATE TABLE network_quotas (
  project_id TEXT NOT NULL, resource TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (project_id, resource));
