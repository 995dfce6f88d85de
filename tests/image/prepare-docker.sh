#!/usr/bin/env bash
# Makes sure that images can be built here: a Docker engine that answers, Compose, and the base image that our
# Dockerfiles start from. Does nothing where all are there, so it may run before every build.
#
# Where no registry can be reached, the base image is made with debootstrap from the packages this machine itself
# installs from. Such an image carries this machine's package settings (mirror, pip's index, certificates), so that
# builds on top of it reach what this machine reaches. It is for tests; never publish what was built on it.
#
#   prepare-docker.sh        makes it so
#   prepare-docker.sh stop   ends the engine that an earlier call started
#   ORLY_TEST_DOCKER_ROOT   where an engine started here keeps its images (default: /tmp/orly-docker)
set -euo pipefail

readonly base=debian:trixie-slim
readonly suite=trixie
readonly start_s=60
readonly stop_s=30
readonly pull_s=120
readonly lock_s=120 # how long another installation may take
readonly root=${ORLY_TEST_DOCKER_ROOT:-/tmp/orly-docker}

say() { echo "prepare-docker: $*" >&2; }
die() { say "$*"; exit 1; }
answers() { docker info >/dev/null 2>&1; }

need_root() { [ "$(id -u)" -eq 0 ] || die "$1 needs root"; }

install_packages() {
  need_root "installing $*"
  command -v apt-get >/dev/null || die "$* is missing, and there is no apt-get to install it"
  local apt=(apt-get -o "DPkg::Lock::Timeout=$lock_s")
  "${apt[@]}" install -y --no-install-recommends "$@" >"$root/apt.log" 2>&1 ||
    { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@"; } >"$root/apt.log" 2>&1 ||
    { cat "$root/apt.log" >&2; die "cannot install $*"; }
}

# Starts an engine of our own. The second attempt is for machines on which packet filter rules cannot be set:
# published ports still work there, through Docker's own forwarder.
start_engine() {
  need_root "starting a Docker engine"
  command -v dockerd >/dev/null || install_packages docker.io
  local options
  for options in "" "--iptables=false --ip6tables=false"; do
    say "starting dockerd $options"
    # shellcheck disable=SC2086  # the options are words
    setsid nohup dockerd --data-root "$root/data" --exec-root "$root/exec" --pidfile "$root/pid" $options \
      >"$root/log" 2>&1 </dev/null &
    local engine=$! waited=0
    while kill -0 "$engine" 2>/dev/null && [ "$waited" -lt $((start_s * 5)) ]; do
      answers && return
      sleep 0.2
      waited=$((waited + 1))
    done
    kill "$engine" 2>/dev/null || true
    wait "$engine" || true
  done
  tail -n 20 "$root/log" >&2
  die "dockerd does not answer"
}

stop_engine() {
  [ -f "$root/pid" ] || { say "no engine was started here"; return; }
  local engine waited=0
  engine=$(cat "$root/pid")
  kill "$engine" 2>/dev/null || return 0
  while kill -0 "$engine" 2>/dev/null; do
    [ "$waited" -lt $((stop_s * 5)) ] || die "dockerd, pid $engine, does not end"
    sleep 0.2
    waited=$((waited + 1))
  done
}

# The first archive this machine installs from, of the kind asked for (main or security).
mirror() {
  local uris
  # shellcheck disable=SC2016  # apt fills these in
  uris=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sort -u)
  case $1 in
    security) grep -m 1 -i -- '-security' <<<"$uris" || true ;;
    main) grep -m 1 -vi -- '-security' <<<"$uris" ;;
  esac
}

# What the -slim images leave out, left out here too, so that sizes can be compared.
slim() {
  cat >"$1/etc/dpkg/dpkg.cfg.d/docker" <<'CFG'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/groff/*
path-exclude /usr/share/lintian/*
path-exclude /usr/share/linda/*
CFG
  find "$1/usr/share/doc" -type f ! -name copyright -delete
  find "$1/usr/share/doc" -depth -type d -empty -delete
  rm -rf "$1"/usr/share/{man,info,locale,groff,lintian,linda}/* "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* \
    "$1"/var/log/*.log "$1"/var/log/apt
  echo 'APT::Install-Recommends "false"; Acquire::Languages "none";' >"$1/etc/apt/apt.conf.d/docker-slim"
  echo 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };' \
    >"$1/etc/apt/apt.conf.d/docker-clean"
}

# How this machine reaches packages: its mirrors, its pip settings, the certificates it was told to trust.
adopt_settings() {
  local key=/usr/share/keyrings/debian-archive-keyring.gpg security
  {
    printf 'Types: deb\nURIs: %s\nSuites: %s %s-updates\nComponents: main\nSigned-By: %s\n' \
      "$(mirror main)" "$suite" "$suite" "$key"
    security=$(mirror security)
    [ -z "$security" ] ||
      printf '\nTypes: deb\nURIs: %s\nSuites: %s-security\nComponents: main\nSigned-By: %s\n' "$security" "$suite" "$key"
  } >"$1/etc/apt/sources.list.d/debian.sources"
  rm -f "$1/etc/apt/sources.list"
  mkdir -p "$1/usr/local/share/ca-certificates" "$1/etc/ssl/certs"
  cp -r /usr/local/share/ca-certificates/. "$1/usr/local/share/ca-certificates/"
  [ ! -f /etc/ssl/certs/ca-certificates.crt ] ||
    cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"
  [ ! -f /etc/pip.conf ] || cp /etc/pip.conf "$1/etc/pip.conf"
  [ -z "${PIP_INDEX_URL:-}" ] || printf '[global]\nindex-url = %s\n' "$PIP_INDEX_URL" >>"$1/etc/pip.conf"
}

make_base() {
  need_root "making $base"
  command -v debootstrap >/dev/null || install_packages debootstrap
  local tree=$root/base
  say "making $base with debootstrap"
  rm -rf "$tree"
  debootstrap --variant=minbase "$suite" "$tree" "$(mirror main)" >"$root/debootstrap.log" 2>&1 ||
    { tail -n 20 "$root/debootstrap.log" >&2; die "debootstrap failed"; }
  slim "$tree"
  adopt_settings "$tree"
  tar -C "$tree" -c . | docker import --change 'CMD ["bash"]' --change 'ENV LANG=C.UTF-8' - "$base" >/dev/null
  rm -rf "$tree"
}

case ${1:-} in
  '') ;;
  stop) stop_engine; exit ;;
  *) die "unknown argument $1" ;;
esac

mkdir -p "$root"
command -v docker >/dev/null || install_packages docker.io
answers || start_engine
docker compose version >/dev/null 2>&1 || docker-compose version >/dev/null 2>&1 || install_packages docker-compose
docker image inspect "$base" >/dev/null 2>&1 || timeout "$pull_s" docker pull -q "$base" >/dev/null 2>&1 || make_base
say "ready: engine $(docker version --format '{{.Server.Version}}'), $base $(docker image inspect --format '{{.Id}}' "$base")"
