/** The configuration of an instance (DESIGN section 5; contracts A5, A6 for the older names). */
export { ConfigError, type ConfigDiagnostic } from './error.ts'
export { type Loaded, type LoadOptions, loadConfig } from './load.ts'
export { defaultRoot, defaultRuntimeDir, instanceFault, systemRoot } from './places.ts'
export { configSchema } from './schema.ts'
export { reloadable, secret } from './settings.ts'
export type { Config, Key as ConfigKey } from './types.ts'
