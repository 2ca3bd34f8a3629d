// The certified npm `oidc-provider` (tools/oidc.sh) on a kernel-chosen port, as an identity provider has it for a
// command line: a public native client, PKCE required, refresh tokens that rotate, revocation. Prints its URL.
import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const [modules, lifetime] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`).href);
const jwk = (kid, alg, pair) => ({ ...pair.privateKey.export({ format: "jwk" }), kid, alg, use: "sig" });
const keys = [
  jwk("rsa", "RS256", generateKeyPairSync("rsa", { modulusLength: 2048 })),
  jwk("ed", "EdDSA", generateKeyPairSync("ed25519")),
];
const client = (client_id, id_token_signed_response_alg) => ({
  client_id,
  id_token_signed_response_alg,
  application_type: "native",
  token_endpoint_auth_method: "none",
  redirect_uris: ["http://127.0.0.1/callback"],
  grant_types: ["authorization_code", "refresh_token"],
});

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [client("mcpg-ctl", "RS256"), client("with-eddsa", "EdDSA")],
    jwks: { keys },
    cookies: { keys: ["for tests only"] },
    claims: { openid: ["sub"], email: ["email"], profile: ["name"] },
    conformIdTokenClaims: false,
    enabledJWA: { idTokenSigningAlgValues: ["RS256", "EdDSA"] },
    features: { revocation: { enabled: true } },
    findAccount: async (ctx, id) => ({ accountId: id, claims: async () => ({ sub: id, email: `${id}@acme.test` }) }),
    issueRefreshToken: async () => true,
    rotateRefreshToken: true,
    ttl: { IdToken: Number(lifetime), AccessToken: 600, Session: 600, Grant: 600, Interaction: 600, RefreshToken: 600 },
  });
  provider.on("server_error", (ctx, error) => console.error(error));
  server.on("request", (request, response) => {
    console.error(`${request.method} ${request.url.split("?")[0]}`);
    provider.callback()(request, response);
  });
  console.log(issuer);
});
