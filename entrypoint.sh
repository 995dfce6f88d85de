#!/bin/sh
# What the container starts: orly-launcher, or the command given. Runs as whoever the container runs as; only when that
# is root, volumes are handed to the image's own user first, and root is left behind.
set -eu

case ${1:-} in
  '' | -*) set -- orly-launcher "$@" ;;
esac

[ "$(id -u)" -eq 0 ] || exec "$@"

for directory in "$ORLY_DATA_DIR" "$ORLY_RUN_DIR"; do
  mkdir -p "$directory"
  find "$directory" -xdev ! -user orly -exec chown -h orly {} +
done
[ "$HOME" != /root ] || export HOME=/nonexistent
exec setpriv --reuid orly --regid orly --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs -- "$@"
