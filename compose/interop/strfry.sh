#!/bin/sh
# strfry as a side of the sync tests: its relay, and beside it the commands that the runner asks for.
#
# A line on the pipe /commands/strfry is a number N. /commands/N.arguments has the command, one argument on a line:
# `kill` and `start` are about the relay, everything else is a command of strfry's. Its output becomes
# /commands/N.output, and once it has ended /commands/N.status its exit status.
set -eu
box=/commands
strfry() { /app/strfry --config=/interop/strfry.conf "$@"; }

start_relay() {
  /app/strfry --config=/interop/strfry.conf relay &
  relay=$!
}

kill_relay() {
  kill -KILL "$relay"
  wait "$relay" || true
}

run() {
  case $1 in
    start) start_relay ;;
    kill) kill_relay ;;
    *) strfry "$@" </dev/null ;;
  esac
}

stop() {
  kill "$relay" 2>/dev/null || true
  exit 0
}

chmod 1777 "$box"
rm -f "$box"/*
mkfifo -m 0666 "$box/strfry"
exec 3<>"$box/strfry"
trap stop TERM INT
start_relay
while read -r number <&3; do
  set --
  while IFS= read -r argument; do set -- "$@" "$argument"; done <"$box/$number.arguments"
  status=0
  run "$@" >"$box/$number.output" 2>&1 || status=$?
  echo "$status" >"$box/$number.part"
  mv "$box/$number.part" "$box/$number.status"
done
