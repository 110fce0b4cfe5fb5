// The OpenAI SDK and its Azure class, unchanged but for address and key.
import OpenAI, { AzureOpenAI } from "openai";
import { IMAGE, PLACE, TOKEN, URL, assert, check, rejected, run } from "./harness.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: TOKEN, maxRetries: 0 });
const azure = new AzureOpenAI({ endpoint: URL, apiKey: TOKEN, apiVersion: "2024-10-21", maxRetries: 0 });
const tools = [{ type: "function", function: { name: "weather", description: "The weather", parameters: PLACE } }];
const asked = (content) => [{ role: "user", content }];

check("chat", "chat", async (model) => {
  const answer = await client.chat.completions.create({ model, messages: asked("Hello") });
  assert.ok(answer.choices[0].message.content);
  assert.ok(answer.usage.total_tokens > 0);
});

check("chat", "stream", async (model) => {
  const stream = client.chat.completions.stream({
    model, messages: asked("Hello"), stream_options: { include_usage: true },
  });
  let text = "";
  stream.on("content", (piece) => { text += piece; });
  const final = await stream.finalChatCompletion();
  assert.equal(text, final.choices[0].message.content);
  assert.ok(final.usage.completion_tokens > 0);
});

check("chat", "tools", async (model) => {
  const question = asked("call the tool");
  const first = await client.chat.completions.create({ model, messages: question, tools, tool_choice: "required" });
  const message = first.choices[0].message;
  const call = message.tool_calls[0];
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)).sort(), ["city", "days"]);
  const result = { role: "tool", tool_call_id: call.id, content: "rain" };
  const second = await client.chat.completions.create({ model, messages: [...question, message, result], tools });
  assert.ok(second.choices.length);
});

check("chat", "structured", async (model) => {
  const answer = await client.chat.completions.create({
    model, messages: asked("Where?"),
    response_format: { type: "json_schema", json_schema: { name: "place", schema: PLACE, strict: true } },
  });
  assert.deepEqual(Object.keys(JSON.parse(answer.choices[0].message.content)).sort(), ["city", "days"]);
});

check("chat", "image_input", async (model) => {
  const content = [{ type: "text", text: "What?" }, { type: "image_url", image_url: { url: IMAGE } }];
  const answer = await client.chat.completions.create({ model, messages: asked(content) });
  assert.ok(answer.choices[0].message.content);
});

check("chat", "responses", async (model) => {
  const first = await client.responses.create({ model, input: "Hello" });
  assert.ok(first.output_text);
  const again = await client.responses.create({ model, input: "And now?", previous_response_id: first.id });
  assert.equal(again.previous_response_id, first.id);
  let text = "";
  for await (const event of await client.responses.create({ model, input: "Hello", stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert.ok(text);
  await client.responses.delete(first.id);
});

check("chat", "azure_chat", async (model) => {
  const answer = await azure.chat.completions.create({ model, messages: asked("Hello") });
  assert.ok(answer.choices[0].message.content);
  let text = "";
  for await (const chunk of await azure.chat.completions.create({ model, messages: asked("Hello"), stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? "";
  }
  assert.ok(text);
});

check("embed", "embeddings", async (model) => {
  for (const user of [client, azure]) {
    const found = await user.embeddings.create({ model, input: ["one", "two"] });
    assert.equal(found.data.length, 2);
    assert.ok(found.data[0].embedding.length > 1);
    assert.equal(typeof found.data[0].embedding[0], "number");
  }
});

check("draw", "images", async (model) => {
  for (const user of [client, azure]) {
    const asked = { model, prompt: "A cat wearing a hat" };
    const sent = await user.images.generate({ ...asked, response_format: "b64_json" });
    assert.ok(Buffer.from(sent.data[0].b64_json, "base64").length > 60);
    const kept = await user.images.generate({ ...asked, response_format: "url" });
    assert.match(kept.data[0].url, /^(http|data:image)/);
  }
});

check("once", "models", async () => {
  const found = [];
  for await (const model of client.models.list()) found.push(model.id);
  assert.ok(found.includes("demo"));
  assert.equal((await client.models.retrieve("demo")).id, "demo");
});

check("once", "errors", async () => {
  const wrong = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "wrong", maxRetries: 0 });
  const ask = (user, model, more = {}) => user.chat.completions.create({ model, messages: asked("Hello"), ...more });
  await rejected(ask(wrong, "demo"), OpenAI.AuthenticationError);
  await rejected(ask(client, "no-such-model"), OpenAI.NotFoundError);
  const bad = await rejected(ask(client, "demo", { temperature: 9 }), OpenAI.BadRequestError);
  assert.equal(bad.param, "temperature");
});

await run();
