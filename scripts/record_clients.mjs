// The clients of scripts/record_clients.py that run in Node.js: node record_clients.mjs openai|ai URL
import assert from "node:assert";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";
import OpenAI, { toFile } from "openai";

const [kind, url] = process.argv.slice(2);
const prompt = "a large red circle on a white background";
const given = { model: "gpt-image-1", prompt, size: "1024x1024" };
const white = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAFElEQVR4nGP4TyJgGNUwqmH4agAAr639H708R/EAAAAASUVORK5CYII=",
  "base64",
);

if (kind === "openai") {
  const images = (name) => new OpenAI({ apiKey: "none", baseURL: `${url}/${name}/v1` }).images;
  assert((await images("openai-node-generate").generate(given)).data[0].b64_json);
  const image = await toFile(white, "image.png", { type: "image/png" });
  assert((await images("openai-node-edit-whole").edit({ ...given, image })).data[0].b64_json);
  const types = [];
  const stream = await images("openai-node-stream").generate({ ...given, stream: true, partial_images: 2 });
  for await (const event of stream) types.push(event.type.split(".")[1]);
  assert.deepEqual(types, ["partial_image", "partial_image", "completed"]);
} else {
  const model = (name) =>
    createOpenAICompatible({ name: "llamagen", apiKey: "none", baseURL: `${url}/${name}/v1` }).imageModel("gpt-image-1");
  const options = { size: "1024x1024", maxRetries: 0 };
  const image = await generateImage({ ...options, model: model("ai-sdk-generate"), prompt });
  assert(image.image.uint8Array.length);
  const edit = { text: prompt, images: [white] };
  assert((await generateImage({ ...options, model: model("ai-sdk-edit-whole"), prompt: edit })).image);
}
