// Shows a flag's value with OpenFeature, and each change of it, until the page is closed.

import { OFREPWebProvider } from "@openfeature/ofrep-web-provider";
import { OpenFeature, ProviderEvents } from "@openfeature/web-sdk";

async function run(address: string, token: string, key: string) {
  // The provider holds all flags in the page. The server reports changes by server-sent events.
  const provider = new OFREPWebProvider({ baseUrl: address, headers: [["authorization", `Bearer ${token}`]] });
  await OpenFeature.setProviderAndWait(provider);
  const flags = OpenFeature.getClient();

  let shown = "";
  function show() {
    const details = flags.getBooleanDetails(key, false);
    // A page would only use details.value: the flag's, or on an error the default.
    let value = `${key}: ${details.value ? "on" : "off"}`;
    if (details.errorCode) value += ` by default, ${details.errorCode}: ${details.errorMessage}`;
    if (value !== shown) print((shown = value));
  }
  for (const event of [ProviderEvents.ConfigurationChanged, ProviderEvents.Ready, ProviderEvents.Error, ProviderEvents.Stale])
    flags.addHandler(event, show);
  show();
}

// Adds a line to the page.
function print(text: string) {
  const line = document.createElement("li");
  line.textContent = text;
  document.querySelector("ol")!.append(line);
}

document.querySelector("form")!.addEventListener("submit", (event) => {
  event.preventDefault();
  const given = new FormData(event.currentTarget as HTMLFormElement);
  const [address, token, key] = ["address", "token", "key"].map((name) => String(given.get(name)));
  run(address, token, key).catch((error) => print(String(error)));
});
