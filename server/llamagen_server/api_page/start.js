// Shows the server's OpenAPI schema with Swagger UI. Addresses are relative, so that they work below a path prefix.
const { SwaggerUIBundle } = /** @type {any} */ (window);
SwaggerUIBundle({ url: new URL("openapi.json", document.baseURI).href, dom_id: "#api", deepLinking: true });
