// What the official `openai` client for Node gets, as one JSON object for the test that ran us.
import OpenAI from "openai";

const [baseURL, apiKey, model, embedder] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = (content) => [{ role: "user", content }];
const pieces = async (stream) => {
  const found = [];
  for await (const piece of stream) found.push(piece);
  return found;
};
const failure = async (promise) => {
  try {
    await promise;
    return null;
  } catch (error) {
    return { name: error.constructor.name, message: error.message, status: error.status, code: error.code };
  }
};
const parameters = { type: "object", properties: { n: { type: "number" } } };
const tools = [{ type: "function", function: { name: "find", parameters } }];

const results = {};
results.models = (await pieces(await client.models.list())).map((m) => m.id).sort();
results.chat = await client.chat.completions.create({ model, messages: messages("hello there") });
results.stream = await pieces(
  await client.chat.completions.create({
    model,
    messages: messages("hello there"),
    stream: true,
    stream_options: { include_usage: true },
  }),
);
results.tools = await client.chat.completions.create({
  model,
  messages: messages('/tool find {"n": 1}'),
  tools,
});
results.embed = await client.embeddings.create({ model: embedder, input: ["a b", "c"] });
results.missing = await failure(
  client.chat.completions.create({ model: "nope", messages: messages("x") }),
);
results.bad = await failure(
  client.chat.completions.create({ model, messages: messages("x"), temperature: -1 }),
);
if (process.argv[6] === "responses") {
  results.response = await client.responses.create({ model, input: "hello there" });
  results.events = await pieces(await client.responses.create({ model, input: "hello there", stream: true }));
  results.several = await client.chat.completions.create({ model, messages: messages("x"), n: 2 });
}
console.log(JSON.stringify(results));
