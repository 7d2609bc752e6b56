// The keys of all screens, as tables of Markdown: what docs/tui.md must have. (node test/tui/keys-table.ts prints them.)
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { locate } from '../../src/client/place.ts'
import { glyphsFor } from '../../src/tui/glyphs.ts'
import { session } from '../../src/tui/session.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { emptySpool, putJob, statusOf } from './synthetic.ts'

/** One table for each screen, from the help that each of them shows; what all have is in the last one alone. */
export async function keyTables(): Promise<Map<string, string[]>> {
  await using dir = await tempDir()
  const layout = await emptySpool(dir.path)
  await putJob(layout, statusOf(1), 'a line\n')
  await writeFile(join(layout.output, 'job-1.qcow2'), 'disk')
  const program = session({
    places: [await locate({ root: dir.path, instance: 'default' })],
    version: '0',
    glyphs: glyphsFor({}),
    view: 'jobs',
    changed() {},
    quit() {},
    suspend() {},
    redraw() {},
  })
  const frame = (): string[] =>
    program.frame({ columns: 200, rows: 60 }).map((l) =>
      l
        .map((s) => s.text)
        .join('')
        .trimEnd(),
    )
  const help = (): string[] => {
    program.key('?')
    const rows = frame()
      .slice(1, -1)
      .filter((l) => l !== '')
      .map((l) => `| ${keysIn(l)} | ${l.slice(17).trim()} |`)
    program.key('esc')
    return rows
  }
  try {
    await until(
      'the job is there',
      () => frame().some((l) => l.startsWith('> job-1 ')) || frame().some((l) => l.includes('job-1')),
    )
    const tables = new Map([['Jobs', help()]])
    for (const [name, key] of [
      ['Log viewer', 'l'],
      ['Job details', 'enter'],
    ] as const) {
      program.key(key)
      tables.set(name, help())
      program.key('esc')
    }
    for (const [name, key] of [
      ['VMs', '2'],
      ['Instances', '3'],
    ] as const) {
      program.key(key)
      tables.set(name, help())
    }
    const jobs = tables.get('Jobs')!
    const common = jobs.filter((row) => [...tables.values()].every((rows) => rows.includes(row)))
    for (const [name, rows] of tables)
      tables.set(
        name,
        rows.filter((row) => !common.includes(row)),
      )
    return tables.set('Everywhere', common)
  } finally {
    program.close()
  }
}

function keysIn(row: string): string {
  const keys = row.slice(1, 15).trim().split(' ')
  return keys.map((k) => `\`${k}\``).join(' ')
}

if (import.meta.main) {
  for (const [name, rows] of await keyTables()) {
    process.stdout.write(`**${name}**\n\n| key | does |\n| --- | --- |\n${rows.join('\n')}\n\n`)
  }
}
