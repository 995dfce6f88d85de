#!/bin/sh
# Pretends to take what has "spam" in it, and takes the rest.
while read -r line; do
  id=$(printf '%s\n' "$line" | sed -n 's/.*"event":{"id":"\([0-9a-f]*\)".*/\1/p')
  case $line in
    *spam*) action=shadowReject ;;
    *) action=accept ;;
  esac
  printf '{"id":"%s","action":"%s"}\n' "$id" "$action"
done
