// Reads {url, user, password, body} from standard input; GETs the URL twice with one client, or POSTs the body once.
// Prints a list of {status, document}.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const packages = createRequire(pathToFileURL(`${process.argv[2]}/`));
const { default: DigestClient } = await import(pathToFileURL(packages.resolve("digest-fetch")));

const { url, user, password, body } = JSON.parse(readFileSync(0, "utf8"));
const client = new DigestClient(user, password);
const options = body === undefined ? {} : {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
};
const answers = [];
for (let call = 0; call < (body === undefined ? 2 : 1); call += 1) {
  const answer = await client.fetch(url, options);
  answers.push({ status: answer.status, document: await answer.json() });
}
console.log(JSON.stringify(answers));
