/**
 * Writes schemas/*.schema.json from the zod schemas; `--check` only compares, and fails when a file is out of date.
 * A new schema is one more line in the list.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { z } from 'zod'
import { configSchema } from '../src/config/index.ts'
import { kinds } from '../src/manifest/index.ts'
import { reportSchema } from '../src/jobs/report-schema.ts'
import { errorSchema, eventSchema, leaseSchema, resultSchema, statusSchema } from '../src/spool/schema.ts'
import { imageRecordSchema } from '../src/vm/images/record.ts'
import { registrySchema } from '../src/vm/registry-schema.ts'
import { vmReportSchema } from '../src/vm/report.ts'

const read = (schema: z.ZodType) => ({ schema, io: 'input' as const })
const written = (schema: z.ZodType) => ({ schema, io: 'output' as const })

/** `read`: what others write and we read; `written`: what we write. */
const list: Record<string, { schema: z.ZodType; io: 'input' | 'output' }> = {
  ...Object.fromEntries(Object.entries(kinds).map(([kind, schema]) => [kind, read(schema)])),
  config: read(configSchema()),
  status: written(statusSchema),
  result: written(resultSchema),
  report: written(reportSchema),
  error: written(errorSchema),
  lease: written(leaseSchema),
  event: written(eventSchema),
  vms: written(registrySchema),
  image: written(imageRecordSchema),
  'vm-report': written(vmReportSchema),
}

const folder = resolve(import.meta.dirname, '../schemas')
const suffix = '.schema.json'

function texts(): Map<string, string> {
  const files = new Map<string, string>()
  const dialect = 'https://json-schema.org/draft/2020-12/schema'
  for (const [name, { schema, io }] of Object.entries(list)) {
    const { $schema: _, ...body } = z.toJSONSchema(schema, { io, target: 'draft-2020-12', unrepresentable: 'any' })
    files.set(name + suffix, text({ $schema: dialect, $id: name + suffix, ...body }))
  }
  const any = Object.keys(kinds).map((kind) => ({ $ref: kind + suffix }))
  files.set(
    `manifest${suffix}`,
    text({ $schema: dialect, $id: `manifest${suffix}`, title: 'vmspool manifest of any kind', anyOf: any }),
  )
  return files
}

const text = (schema: object) => `${JSON.stringify(schema, null, 2)}\n`

const files = texts()
const there = readdirSync(folder).filter((f) => f.endsWith('.json'))
const stale = [...files].filter(
  ([file, content]) => !there.includes(file) || readFileSync(join(folder, file), 'utf8') !== content,
)
const extra = there.filter((f) => !files.has(f))

if (process.argv.includes('--check')) {
  if (stale.length + extra.length > 0) {
    const names = [...stale.map(([f]) => f), ...extra].join(', ')
    console.error(
      `The JSON Schemas do not match the code: ${names}. Run \`npm run schemas\` and commit what it writes.`,
    )
    process.exitCode = 1
  }
} else {
  for (const [file, content] of stale) writeFileSync(join(folder, file), content)
  if (extra.length > 0) console.error(`No schema of the code stands behind ${extra.join(', ')}; remove them.`)
  console.log(`schemas: ${stale.length} of ${files.size} written`)
}
