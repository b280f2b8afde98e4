// Drives the npm SDK against a server (OPENAI_BASE_URL, OPENAI_API_KEY) and prints what came of it as JSON.
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 2 });
const seen = {};

const hello = [{ role: "user", content: "Hello?" }];
const { data, response } = await client.chat.completions.create({ model: "assistant", messages: hello }).withResponse();
seen.chat = data.choices[0].message.content;
seen.session = response.headers.get("x-cartrita-session");
seen.decision = response.headers.get("x-cartrita-decision");

const stream = await client.chat.completions.create({
  model: "scripted",
  messages: [{ role: "user", content: "Count!" }],
  stream: true,
  stream_options: { include_usage: true },
});
seen.words = [];
for await (const chunk of stream) {
  const word = chunk.choices[0]?.delta?.content;
  if (word) seen.words.push(word);
  if (chunk.usage) seen.streamed = chunk.usage.completion_tokens;
}

// The SDK's own loop: it calls the function and sends the result back.
const runner = client.chat.completions.runTools({
  model: "scripted",
  messages: [{ role: "user", content: "How is the weather in Bonn?" }],
  tools: [
    {
      type: "function",
      function: {
        name: "weather",
        description: "The weather in a town.",
        parse: JSON.parse,
        parameters: { type: "object", properties: { town: { type: "string" } }, required: ["town"] },
        function: ({ town }) => `18 degrees in ${town}`,
      },
    },
  ],
});
seen.tools = await runner.finalContent();

const schema = await client.chat.completions.create({
  model: "scripted",
  messages: [{ role: "user", content: "Which town?" }],
  response_format: {
    type: "json_schema",
    json_schema: {
      name: "town",
      schema: { type: "object", properties: { name: { type: "string" } }, required: ["name"] },
    },
  },
});
seen.schema = JSON.parse(schema.choices[0].message.content);

const embeddings = await client.embeddings.create({ model: "local", input: ["a cat"] });
seen.dimensions = embeddings.data[0].embedding.length;

seen.models = [];
for await (const model of client.models.list()) seen.models.push(model.id);

try {
  await client.chat.completions.create({ model: "assistant", messages: [{ role: "user", content: "FORBIDDEN" }] });
} catch (error) {
  seen.denied = { status: error.status, code: error.code, type: error.constructor.name };
}
try {
  await client.chat.completions.create({ model: "gpt-9", messages: hello });
} catch (error) {
  seen.unknown = { status: error.status, code: error.code, param: error.param };
}
console.log(JSON.stringify(seen));
