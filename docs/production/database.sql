-- Run once as a superuser, in a new database:
--   createdb cartrita && psql -d cartrita -v owner_password=... -v app_password=... -f database.sql
-- Cartrita needs PostgreSQL 15 or newer with pgvector 0.8 or newer.
create extension if not exists vector;
-- Owns the tables: migrations and rebuilds of read models.
create role cartrita_owner login password :'owner_password';
-- Serves. It can add events, and change or delete none; it makes no tables.
create role cartrita_app login password :'app_password';
-- For backups and for dashboards; without a password until `alter role ... password` gives them one.
select format('create role %I login', name) from unnest(array['cartrita_backup', 'cartrita_reader']) as name
where not exists (select from pg_roles where rolname = name) \gexec
alter schema public owner to cartrita_owner;
grant usage on schema public to cartrita_app;
-- Rights on what migrations will create. Each `manage.py migrate` ends with `select grant_to_roles()`, which
-- gives all three what they need of it and takes back the rest.
alter default privileges for role cartrita_owner in schema public grant select, insert, update, delete on tables to cartrita_app;
alter default privileges for role cartrita_owner in schema public grant usage, select on sequences to cartrita_app;
alter default privileges for role cartrita_owner in schema public grant execute on functions to cartrita_app;
