"use strict";

// Swagger UI on our own document and nothing else: no address is taken from the page's query, none is asked to validate it,
// and a credential that is typed in is forgotten with the page.
const place = document.getElementById("swagger-ui");

window.ui = SwaggerUIBundle({
  url: place.dataset.document,
  domNode: place,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  docExpansion: "none",
  defaultModelsExpandDepth: 0,
  filter: true,
  persistAuthorization: false,
  queryConfigEnabled: false,
  validatorUrl: null,
});
