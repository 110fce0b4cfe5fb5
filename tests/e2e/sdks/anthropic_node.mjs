// The Anthropic SDK, unchanged but for address and key.
import Anthropic from "@anthropic-ai/sdk";
import { PIXEL, PLACE, TOKEN, URL, assert, check, rejected, run } from "./harness.mjs";

const client = new Anthropic({ baseURL: URL, apiKey: TOKEN, maxRetries: 0 });
const tools = [{ name: "weather", description: "The weather", input_schema: PLACE }];
const asked = (content) => [{ role: "user", content }];
const max_tokens = 200;

check("chat", "chat", async (model) => {
  const answer = await client.messages.create({ model, max_tokens, system: "Be brief.", messages: asked("Hello") });
  assert.ok(answer.content[0].text);
  assert.equal(answer.stop_reason, "end_turn");
  assert.ok(answer.usage.output_tokens > 0);
});

check("chat", "stream", async (model) => {
  const stream = client.messages.stream({ model, max_tokens, messages: asked("Hello") });
  let text = "";
  stream.on("text", (piece) => { text += piece; });
  const final = await stream.finalMessage();
  assert.equal(text, final.content[0].text);
  assert.ok(text);
});

check("chat", "tools", async (model) => {
  const question = asked("call the tool");
  const first = await client.messages.create({
    model, max_tokens, messages: question, tools, tool_choice: { type: "any" },
  });
  const call = first.content.find((block) => block.type === "tool_use");
  assert.deepEqual(Object.keys(call.input).sort(), ["city", "days"]);
  const results = [{ type: "tool_result", tool_use_id: call.id, content: "rain" }];
  const messages = [...question, { role: "assistant", content: first.content }, { role: "user", content: results }];
  assert.ok((await client.messages.create({ model, max_tokens, messages, tools })).content.length);
});

check("chat", "streamed_tools", async (model) => {
  const stream = client.messages.stream({
    model, max_tokens, messages: asked("call the tool"), tools, tool_choice: { type: "any" },
  });
  const call = (await stream.finalMessage()).content.find((block) => block.type === "tool_use");
  assert.deepEqual(Object.keys(call.input).sort(), ["city", "days"]);
});

check("chat", "structured", async (model) => {
  const answer = await client.messages.create({
    model, max_tokens, messages: asked("Where?"), output_config: { format: { type: "json_schema", schema: PLACE } },
  });
  assert.deepEqual(Object.keys(JSON.parse(answer.content[0].text)).sort(), ["city", "days"]);
});

check("chat", "image_input", async (model) => {
  const source = { type: "base64", media_type: "image/png", data: PIXEL };
  const content = [{ type: "text", text: "What?" }, { type: "image", source }];
  assert.ok((await client.messages.create({ model, max_tokens, messages: asked(content) })).content[0].text);
});

check("chat", "count_tokens", async (model) => {
  assert.ok((await client.messages.countTokens({ model, messages: asked("Hello there") })).input_tokens > 0);
});

check("once", "models", async () => {
  const found = [];
  for await (const model of client.models.list()) found.push(model.id);
  assert.ok(found.includes("demo"));
});

check("once", "errors", async () => {
  const wrong = new Anthropic({ baseURL: URL, apiKey: "wrong", maxRetries: 0 });
  const ask = (user, model, more = {}) =>
    user.messages.create({ model, max_tokens, messages: asked("Hello"), ...more });
  await rejected(ask(wrong, "demo"), Anthropic.AuthenticationError);
  await rejected(ask(client, "no-such-model"), Anthropic.NotFoundError);
  const bad = await rejected(ask(client, "demo", { max_tokens: -1 }), Anthropic.BadRequestError);
  assert.ok(String(bad).includes("max_tokens"));
});

await run();
