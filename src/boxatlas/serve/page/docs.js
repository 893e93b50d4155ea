// The API as openapi.json describes it, read by people.
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const headers = token ? { Authorization: `Bearer ${token}` } : {};

function make(kind, text = "", ...children) {
  const element = document.createElement(kind);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
}

const kindOf = (schema) =>
  schema.anyOf ? schema.anyOf.map(kindOf).filter((kind) => kind !== "null").join(" or ")
    : schema.type === "array" ? `list of ${kindOf(schema.items)}` : schema.type ?? "any";

function example(method, path) {
  const way = method === "post" ? " --data-binary @photo.jpg" : "";
  const secret = token ? " -H 'Authorization: Bearer TOKEN'" : "";
  return `curl -s${way}${secret} '${location.origin}${path}${method === "post" ? "?score=0.5" : ""}'`;
}

async function show() {
  const answer = await fetch("openapi.json", { headers });
  const document_ = await answer.json();
  const into = document.getElementById("routes");
  if (!answer.ok) return into.append(make("p", document_.error));
  for (const [path, ways] of Object.entries(document_.paths)) {
    for (const [method, route] of Object.entries(ways)) {
      const section = make("section", "", make("h2", `${method.toUpperCase()} ${path}`));
      for (const part of (route.description ?? "").split("\n\n")) section.append(make("p", part));
      if (route.parameters?.length) {
        const table = make("table");
        for (const one of route.parameters) {
          table.append(make("tr", "", make("td", "", make("code", one.name)),
            make("td", kindOf(one.schema)), make("td", one.description ?? "")));
        }
        section.append(table);
      }
      if (route.requestBody) section.append(make("p", route.requestBody.description));
      section.append(make("pre", "", make("code", example(method, path))));
      into.append(section);
    }
  }
}

show();
