// What the official `ollama` client gets from a daemon, as one JSON object for the test that ran us.
import { Ollama } from "ollama";

const [host, model, embedder] = process.argv.slice(2);
const client = new Ollama({ host });
const ask = (content, more = {}) =>
  client.chat({ model, messages: [{ role: "user", content }], ...more });
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
    return { name: error.name, message: error.message, status: error.status_code };
  }
};
const tool = {
  type: "function",
  function: { name: "find", description: "find it", parameters: { type: "object", properties: {} } },
};

const results = {};
results.list = (await client.list()).models.map((m) => m.name).sort();
results.chat = await ask("hello there");
results.stream = await pieces(await ask("hello there", { stream: true }));
results.thinking = await ask("/think", { think: true });
results.tools = await ask('/tool find {"n": 1}', { tools: [tool] });
results.format = JSON.parse((await ask("/dump", { format: { type: "object" } })).message.content);
results.generate = await client.generate({ model, prompt: "one two", options: { num_predict: 2 } });
results.generated = await pieces(await client.generate({ model, prompt: "one two", stream: true }));
results.embed = await client.embed({ model: embedder, input: ["a b", "c"] });
results.legacy = await client.embeddings({ model: embedder, prompt: "a b" });
results.show = await client.show({ model });
results.ps = (await client.ps()).models.map((m) => m.name).sort();
results.version = await client.version();

const stream = await ask("/count 100000", { stream: true });
let before = 0;
results.aborted = await failure(
  (async () => {
    for await (const _ of stream) if (++before === 3) stream.abort();
  })(),
);
results.beforeAbort = before;

results.missing = await failure(client.chat({ model: "nope", messages: [{ role: "user", content: "x" }] }));
results.bad = await failure(ask("x", { options: { temperature: "hot" } }));
results.copied = await client.copy({ source: model, destination: "second" });
results.created = await pieces(
  await client.create({ model: "third", from: model, system: "Be brief.", stream: true }),
);
results.afterwards = (await client.list()).models.map((m) => m.name).sort();
results.deleted = await client.delete({ model: "second" });
results.gone = await failure(client.delete({ model: "second" }));
console.log(JSON.stringify(results));
