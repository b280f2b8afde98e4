-- Run once as a superuser, in a new database:
--   createdb cartrita && psql -d cartrita -v owner_password=... -v app_password=... -f database.sql
-- Cartrita needs PostgreSQL 15 or newer with pgvector 0.8 or newer.
create extension if not exists vector;
create role cartrita_owner login password :'owner_password';
create role cartrita_app login password :'app_password';
alter schema public owner to cartrita_owner;
grant usage on schema public to cartrita_app;
-- Rights on what migrations will create; they take back what the serving role must not have: changing events.
alter default privileges for role cartrita_owner in schema public grant select, insert, update, delete on tables to cartrita_app;
alter default privileges for role cartrita_owner in schema public grant usage, select on sequences to cartrita_app;
alter default privileges for role cartrita_owner in schema public grant execute on functions to cartrita_app;
