// Translates what the page itself does not: the words of our charts, and the values of our lists.
// The texts stand in locales/<language>/main.json under "flexid"; what is absent stays English.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const CHARTS_AND_LISTS = "flexid";
let languages = {};

export function translate(kind, text) {
  const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
  return languages[language]?.[CHARTS_AND_LISTS]?.[kind]?.[text] ?? text;
}

// The value stays in sight: help pages, saved workflows and the API name it.
function labelOption(value) {
  const name = translate("options", value);
  return name === value ? value : `${value}（${name}）`;
}

app.registerExtension({
  name: "flexid.Language",
  async init() {
    const answer = await api.fetchApi("/i18n");
    if (answer.ok) languages = await answer.json();
  },
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("FlexID")) return;
    for (const { options } of node.widgets ?? []) {
      const values = options?.values;
      if (Array.isArray(values) && values.some((value) => labelOption(value) !== value)) {
        options.getOptionLabel = (value) => labelOption(value ?? "");
      }
    }
  },
});
