#!/bin/sh
# What Cloudron starts. The operator's settings are in /app/data/orly.env, which an update never touches; the domain and
# the proxy are Cloudron's to say.
set -eu

: "${CLOUDRON_APP_DOMAIN:?is set by Cloudron}" "${CLOUDRON_PROXY_IP:?is set by Cloudron}"
export ORLY_DATA_DIR=/app/data/store ORLY_RUN_DIR=/run/orly HOME=/run/orly-home
export ORLY_RELAY_URL="wss://$CLOUDRON_APP_DOMAIN" ORLY_TRUSTED_PROXIES="$CLOUDRON_PROXY_IP"

[ -e /app/data/orly.env ] || cp /app/code/orly.env /app/data/orly.env
# Ownership does not outlive every restore. The settings may hold a secret.
chown orly:orly /app/data /app/data/orly.env
chmod 0600 /app/data/orly.env
mkdir -p "$HOME/.config/ORLY"
ln -sfn /app/data/orly.env "$HOME/.config/ORLY/.env"

exec entrypoint.sh
