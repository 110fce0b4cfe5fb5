/**
 * Where the gateway is, such as "https://gateway.example.org". Empty: where this page came from.
 * Another origin has to be allowed there by ALLOWED_ORIGINS, and here by the page's connect-src (see README.md).
 */
export const GATEWAY = "";
