// The gateway's API as the page uses it.

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function call(path, key, options = {}) {
  const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  let message = `HTTP ${answer.status}`;
  try {
    message = (await answer.json()).error.message;
  } catch { /* not our JSON; the status says enough */ }
  throw new ApiError(message, answer.status);
}

export async function listModels(key) {
  const list = await (await call("/v1/models", key)).json();
  return list.data.map((row) => row.id);
}

/**
 * Ask for an answer. `onText` gets each piece of text.
 * Resolves to {usage, finished}: `finished` is false when the stream broke off.
 */
export async function chat(key, model, messages, signal, onText) {
  const body = JSON.stringify({ model, messages, stream: true, stream_options: { include_usage: true } });
  const answer = await call("/v1/chat/completions", key, { method: "POST", body, signal });
  const result = { usage: null, finished: false };
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") {
      result.finished = true;
      break;
    }
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(event.error.message, 502);
    if (event.usage) result.usage = event.usage;
    for (const choice of event.choices ?? []) {
      if (choice.finish_reason) result.finished = true;
      if (choice.delta?.content) onText(choice.delta.content);
    }
  }
  return result;
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r/);
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
