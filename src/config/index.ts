/** The configuration of an instance (DESIGN section 5; contracts A5, A6 for the older names). */
export { ConfigError } from './error.ts'
export { type Loaded, loadConfig } from './load.ts'
export { configSchema } from './schema.ts'
export { keys, reloadable, secret } from './settings.ts'
export type { Config, Template } from './types.ts'
