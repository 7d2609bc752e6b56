/**
 * Which variables carry a secret. Only their names can tell, and a name that lies costs either way: a secret that is written down, or
 * a harmless value that has to be given again for a rerun. So names are read word by word, not by what they contain.
 */

/** A word that ends like this says it by itself: PGPASSWORD, GITHUB_TOKEN, clientSecret. */
const WORD =
  /(?:PASSWORD|PASSWORDS|PASSWD|PASSPHRASE|PASSCODE|SECRET|SECRETS|TOKEN|CREDENTIAL|CREDENTIALS|APIKEY|ACCESSKEY|PRIVATEKEY|SECRETKEY)$/

/** Said by the last word only: AUTH_METHOD and COOKIE_DOMAIN are settings. */
const LAST = new Set([
  'AUTH',
  'OAUTH',
  'AUTHORIZATION',
  'BEARER',
  'COOKIE',
  'COOKIES',
  'CREDS',
  'JWT',
  'PASS',
  'TOKENS',
])

/** Keys that open something. A key may also be one to sort by. */
const KEYS = new Set(
  'ACCESS ACCOUNT API AUTH DECRYPTION DEPLOY ENCRYPTION GPG HMAC LICENSE MASTER PGP PRIVATE RSA SECRET SERVICE SESSION SHARED SIGNING SSH SSL STORAGE TLS WEBHOOK'.split(
    ' ',
  ),
)

/** What stands beside the secret: where it lies, how long it is, which one is meant. */
const ABOUT =
  /^(?:FILE|FILES|FILENAME|PATH|DIR|DIRECTORY|FOLDER|SOCK|SOCKET|HELPER|MANAGER|STORE|POLICY|LENGTH|TTL|EXPIRY|EXPIRES|TIMEOUT|TYPE|METHOD|MODE|ENABLED|REQUIRED|COUNT|LIMIT|BUDGET|ENDPOINT)$/

/** Words that end in PASS and are no password. */
const NO_PASS = /^(?:ASK|BY|COM|ENCOM|SUR|TRES|MULTI|ONE|TWO|SINGLE)PASS$/

/** Whether a variable of this name is taken for a secret: never stored, shown as ********. */
export function looksSecret(name: string): boolean {
  const words = (name.match(/[A-Z]+(?![a-z])|[A-Z]?[a-z]+/g) ?? []).map((w) => w.toUpperCase())
  const last = words.at(-1)
  if (last === undefined || ABOUT.test(last)) return false
  if (words.some((w) => WORD.test(w))) return true
  if (words.some((w, i) => (w === 'KEY' || w === 'KEYS') && KEYS.has(words[i - 1] ?? ''))) return true
  if (last === 'TOKENS') return !words.some((w) => /^(?:MAX|MIN|NUM|TOTAL|PER)$/.test(w))
  if (last === 'PWD') return words.length > 1 && words[0] !== 'OLD'
  return LAST.has(last) || (last.endsWith('PASS') && !NO_PASS.test(last))
}

/** What stands for a value that is not shown. */
export const masked = '********'

/** The value of a variable as every view shows it: nothing of a secret, and of an address (scheme://user:password@host) not its password. */
export function shownValue(name: string, value: string): string {
  return looksSecret(name) ? masked : withoutPassword(value)
}

export function withoutPassword(value: string): string {
  return value.replace(/(\b[a-z][a-z0-9+.-]*:\/\/[^\s/:@]*):[^\s/@]+@/gi, `$1:${masked}@`)
}
