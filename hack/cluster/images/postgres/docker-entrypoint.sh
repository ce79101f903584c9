#!/bin/bash
# Makes the database on an empty volume, then becomes the server. POSTGRES_USER (postgres), POSTGRES_DB (the user's name)
# and POSTGRES_PASSWORD_FILE mean what they mean to the public image.
set -euo pipefail

user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}

if [[ $1 == postgres && ! -s $PGDATA/PG_VERSION ]]; then
    [[ -s ${POSTGRES_PASSWORD_FILE:-} ]] || { echo "POSTGRES_PASSWORD_FILE must name a file with a password" >&2; exit 1; }
    initdb --username="$user" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust --auth-host=scram-sha-256
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    if [[ $database != postgres ]]; then
        # Single-user mode: nobody can connect before the database is whole.
        printf 'CREATE DATABASE "%s"\n' "${database//\"/\"\"}" | postgres --single postgres >/dev/null
    fi
fi
if [[ $1 == postgres ]]; then set -- "$@" -c 'listen_addresses=*'; fi
exec "$@"
