#!/bin/sh
# Makes the secrets that compose.yaml mounts, each once: those that exist stay, but for an empty token. sh deploy/secrets.sh [directory]
set -eu
directory=${1:-$(dirname "$0")/secrets}
umask 077
mkdir -p "$directory"
cd "$directory"

keep() {  # keep <name> <content>
    [ -e "$1" ] && return
    printf '%s\n' "$2" > "$1"
    # Compose mounts a secret with the file's own mode, and containers run as other users; the directory keeps others out.
    chmod 644 "$1"
}
random() { openssl rand -hex 32; }

redis_password=$(random)
postgres_password=$(random)
[ -e redis_users ] || rm -f driftloop_redis_url
[ -e postgres_password ] || rm -f airflow_database
keep driftloop_signing_key "$(random)"
if [ ! -e driftloop_redis_url ]; then
    rm -f redis_users
    digest=$(printf '%s' "$redis_password" | openssl dgst -sha256 -r | cut -d ' ' -f 1)
    # What workers, Airflow and `driftloop restore` need; others may only ask whether Redis is there.
    keep redis_users "user default on nopass resetkeys resetchannels -@all +ping
user driftloop on #$digest ~{*}* resetchannels -@all +@read +@write +@connection +@transaction +eval +evalsha +script|load +script|exists -@dangerous +info +time +restore"
    keep driftloop_redis_url "redis://driftloop:$redis_password@redis:6379/0"
fi
if [ ! -e airflow_database ]; then
    rm -f postgres_password
    keep postgres_password "$postgres_password"
    keep airflow_database "postgresql+psycopg2://airflow:$postgres_password@postgres:5432/airflow"
fi
keep airflow_fernet_key "$(openssl rand -base64 32 | tr '+/' '-_')"
keep airflow_secret_key "$(random)"
keep airflow_jwt_secret "$(random)"
token=${DRIFTLOOP_LABEL_STUDIO_TOKEN:-}  # Label Studio gives it to a user, so it comes later; an empty one is none
keep driftloop_label_studio_token "$token"
# In place: containers have the file mounted.
grep -q '[^[:space:]]' driftloop_label_studio_token || printf '%s\n' "$token" > driftloop_label_studio_token
keep grafana_password "$(openssl rand -hex 12)"
