#!/usr/bin/env bash
# Makes the virtual environments. Re-running is quick and harmless: a stamp file named after the hash of the
# lock files says what is already there.
#
#   tools/setup.sh runtime|dev|libvirt|real|tempest
#
# PYTHON=... chooses the interpreter (default python3, must be 3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
want=${1:-runtime}
PYTHON=${PYTHON:-python3}
mkdir -p .make

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# apt_install NAME...: installs Debian packages, or says the line that an administrator has to run.
apt_install() {
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "this system has no apt-get; please install the equivalents of: $*"
    fi
    if [ "$(id -u)" != 0 ]; then
        fail "some Debian packages are missing; please run:  sudo apt-get install -y $*"
    fi
    say "installing Debian packages: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "$@" >.make/apt.log 2>&1 && return 0
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } >.make/apt.log 2>&1 \
        || { tail -n 20 .make/apt.log >&2; fail "apt-get could not install: $*"; }
}

need_python() {
    if ! command -v "$PYTHON" >/dev/null 2>&1; then
        apt_install python3 python3-venv
    fi
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || fail "$PYTHON is $("$PYTHON" -V 2>&1); Virga needs 3.11 or newer (set PYTHON=/path/to/python3.11)"
    # Debian splits ensurepip from python3; other builds carry it.
    "$PYTHON" -c 'import venv, ensurepip' >/dev/null 2>&1 || apt_install python3-venv
    "$PYTHON" -c 'import venv, ensurepip' >/dev/null 2>&1 || fail "$PYTHON has no venv module"
    # A source build without the SQLite headers lacks this one; better said here than in the middle of a start.
    "$PYTHON" -c 'import sqlite3, ssl' >/dev/null 2>&1 || fail "$PYTHON was built without sqlite3 or ssl"
}

# make_venv DIR: creates the environment, or makes it anew when its interpreter is gone.
make_venv() {
    if [ -x "$1/bin/python" ] && "$1/bin/python" -c 'import pip' >/dev/null 2>&1; then
        return 0
    fi
    need_python
    say "making $1 with $("$PYTHON" -V)"
    rm -rf "$1"
    "$PYTHON" -m venv "$1"
}

digest() { cat "$@" | sha256sum | cut -c1-16; }

# stamped NAME HASH VENV: true when NAME was installed from exactly these files into a VENV that still exists.
stamped() { [ -f ".make/$1" ] && [ "$(cat ".make/$1")" = "$2" ] && [ -x "$3/bin/python" ] && "$3/bin/python" -c '' 2>/dev/null; }

pip_install() {
    local venv=$1
    shift
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >.make/pip.log 2>&1 \
        || { tail -n 30 .make/pip.log >&2; fail "pip install failed: $*"; }
}

install_virga() {
    pip_install .venv --no-deps --editable .
    .venv/bin/python -c 'import virga' || fail "the package was installed but cannot be imported"
}

case "$want" in
runtime)
    sum=$(digest requirements/runtime.txt pyproject.toml)
    if stamped runtime "$sum" .venv && [ -x .venv/bin/virga ]; then exit 0; fi
    make_venv .venv
    say "installing what Virga runs on"
    pip_install .venv -r requirements/runtime.txt
    install_virga
    echo "$sum" >.make/runtime
    say "ready: .venv/bin/virga"
    ;;
dev)
    "$0" runtime
    sum=$(digest requirements/dev.txt)
    if stamped dev "$sum" .venv && [ -x .venv/bin/pytest ]; then exit 0; fi
    say "installing the test tools and the OpenStack clients"
    pip_install .venv -r requirements/dev.txt
    echo "$sum" >.make/dev
    ;;
libvirt)
    "$0" runtime
    if .venv/bin/python -c 'import libvirt' 2>/dev/null; then exit 0; fi
    if ! pkg-config --exists libvirt 2>/dev/null || ! command -v gcc >/dev/null 2>&1; then
        apt_install libvirt-dev pkg-config gcc
    fi
    # Python.h: a Debian interpreter keeps it in python3-dev, others carry it.
    .venv/bin/python -c 'import os, sysconfig; raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' \
        || apt_install python3-dev
    say "building the libvirt binding against this machine's libvirt"
    pip_install .venv -r requirements/libvirt.txt
    ;;
real)
    # What real guests need on a host, by the command each package brings.
    missing=()
    while read -r program package; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null 2>&1 || missing+=("$package")
    done <<'LIST'
libvirtd libvirt-daemon
virsh libvirt-clients
qemu-system-x86_64 qemu-system-x86
qemu-img qemu-utils
dnsmasq dnsmasq-base
radvd radvd
nft nftables
ip iproute2
ping iputils-ping
arping iputils-arping
conntrack conntrack
modprobe kmod
sysctl procps
nsenter util-linux
ssh openssh-client
tini tini
LIST
    # libvirt's QEMU driver does not start without this user, whatever qemu.conf says; only this package makes it.
    getent passwd libvirt-qemu >/dev/null || missing+=(libvirt-daemon-system)
    compgen -G '/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so' >/dev/null || missing+=(libvirt-daemon-driver-qemu)
    if [ ${#missing[@]} -gt 0 ]; then apt_install "${missing[@]}"; fi
    "$0" libvirt
    ;;
tempest)
    sum=$(digest requirements/tempest.txt)
    if stamped tempest "$sum" .venv-tempest; then exit 0; fi
    make_venv .venv-tempest
    say "installing tempest into .venv-tempest"
    pip_install .venv-tempest -r requirements/tempest.txt
    echo "$sum" >.make/tempest
    ;;
*)
    fail "unknown target '$want' (runtime, dev, libvirt, real, tempest)"
    ;;
esac
