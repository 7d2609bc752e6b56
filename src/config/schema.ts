import { z } from 'zod'
import { type Alias, aliases, environmentNames } from './aliases.ts'
import { keys, settings } from './settings.ts'
import type { Setting } from './setting.ts'

interface Branch {
  [key: string]: Branch | z.ZodType
}

/** The configuration file as a zod schema, made from the table of settings; older names stand in it as deprecated. */
export function configSchema(): z.ZodType {
  const tree: Branch = {}
  for (const key of keys) {
    const { reader, doc, standard } = settings[key] as Setting<unknown>
    const about = { description: doc, ...(standard !== undefined && { default: standard }) }
    put(tree, key.split('.'), reader.schema.nullable().optional().meta(about))
  }
  for (const [name, alias] of aliases) {
    // The names of the old EnvironmentFile are written in capitals there.
    put(
      tree,
      (environmentNames.has(name) ? name.toUpperCase() : name).split('.'),
      z
        .unknown()
        .optional()
        .meta({ deprecated: true, description: describe(alias) }),
    )
  }
  return strict(tree).meta({ title: 'vmspool configuration: agent.yaml' })
}

function describe(alias: Alias): string {
  if ('ignored' in alias) return `Of the systems before vmspool; has no meaning here: ${alias.ignored}.`
  if ('split' in alias) return 'Of the systems before vmspool; sets convert.format, convert.compress and others.'
  return `Of the systems before vmspool; now ${alias.key}${alias.unit ? ` (here in ${alias.unit})` : ''}.`
}

function put(tree: Branch, path: string[], leaf: z.ZodType): void {
  let branch = tree
  for (const step of path.slice(0, -1)) {
    branch[step] ??= {}
    branch = branch[step] as Branch
  }
  branch[path.at(-1)!] ??= leaf
}

function strict(tree: Branch): z.ZodObject {
  return z.strictObject(
    Object.fromEntries(
      Object.entries(tree).map(([k, v]) => [k, v instanceof z.ZodType ? v : strict(v).nullable().optional()]),
    ),
  )
}
