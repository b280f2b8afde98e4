// Appends with Emmett's PostgreSQL event store: one JSON line of events per second.
// node append.mjs HOST USER DATABASE WRITERS SECONDS PER_COMMIT

import { randomUUID } from "node:crypto";
import { getPostgreSQLEventStore } from "@event-driven-io/emmett-postgresql";
import pg from "pg";

const [host, user, database, writers, seconds, perCommit] = process.argv.slice(2);
const pool = new pg.Pool({ host, user, database, max: Number(writers) });
const store = getPostgreSQLEventStore(`postgresql://${user}@localhost/${database}`, {
  connectionOptions: { pooled: true, pool },
  schema: { autoMigration: "None" },
});
await store.schema.migrate();

const note = "x".repeat(180);
let count = 0;
let endsAt = Infinity;

async function append() {
  const events = Array.from({ length: Number(perCommit) }, (_, number) => ({
    type: "Happened",
    data: { note, number },
  }));
  await store.appendToStream(`bench-${randomUUID()}`, events, { expectedStreamVersion: "STREAM_DOES_NOT_EXIST" });
  count += events.length;
}

async function write() {
  while (performance.now() < endsAt) await append();
}

// Connects.
await Promise.all(Array.from({ length: Number(writers) }, append));
count = 0;
const began = performance.now();
endsAt = began + Number(seconds) * 1000;
await Promise.all(Array.from({ length: Number(writers) }, write));
console.log(JSON.stringify({ events_per_second: count / ((performance.now() - began) / 1000) }));
process.exit(0);
