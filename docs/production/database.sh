#!/bin/sh
# Runs database.sql when the database's volume is new (PostgreSQL's image calls what lies in initdb.d).
set -eu
psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --set ON_ERROR_STOP=1 \
	--set owner_password="$OWNER_PASSWORD" --set app_password="$APP_PASSWORD" --file /cartrita/database.sql
