import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { home } from '../support/agent.ts'
import { keyTables } from './keys-table.ts'

test('docs/tui.md has the keys of every screen as its help shows them, and no others', async () => {
  const text = await readFile(join(home, 'docs/tui.md'), 'utf8')
  const rows = (part: string): string[] => part.split('\n').filter((l) => l.startsWith('| `'))
  const tables = await keyTables()
  expect([...tables.keys()]).toHaveLength(6)
  for (const [name, wanted] of tables) {
    const part = text.split(`\n### ${name}\n`)[1]?.split('\n#')[0] ?? ''
    expect(rows(part), name).toEqual(wanted)
  }
  expect(rows(text)).toHaveLength([...tables.values()].flat().length)
})
