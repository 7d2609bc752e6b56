// Documents that can be held against the program are. (After a change of the settings: node scripts/config-docs.ts)
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { table } from '../../src/cli/commands.ts'
import { settings } from '../../src/config/settings.ts'
import { home } from '../support/agent.ts'

const page = (name: string) => readFile(join(home, 'docs', name), 'utf8')

test('configuration.md names every setting with its default and its meaning', async () => {
  const text = await page('configuration.md')
  for (const [key, s] of Object.entries(settings)) {
    if (s.later !== undefined) continue
    const standard = typeof s.standard === 'string' ? s.standard : JSON.stringify(s.standard)
    expect(text).toContain(
      `| \`${key}\` | ${s.standard === undefined ? '' : `\`${standard}\``} | ${s.doc}${s.reload ? '' : ' *'} |`,
    )
  }
})

test('cli.md names every command and every option that is its own', async () => {
  const text = await page('cli.md')
  for (const entry of table) {
    const line = text.split('\n').find((l) => l.startsWith(`| \`${entry.name}`))
    expect(line, entry.name).toBeDefined()
    const command = (await entry.load()).default()
    for (const option of command.options) {
      const shared = ['--instance', '--root', '--config', '--output', '--quiet', '--timeout', '--agent-grace', '--wait']
      if (option.long && !shared.includes(option.long)) {
        expect(line, `${entry.name} ${option.flags}`).toMatch(
          new RegExp(`${option.long}\\b|(?<![\\w-])${option.short ?? '--none'}\\b`),
        )
      }
    }
  }
})

test('links between documents lead somewhere, and no document is left out of the README', async () => {
  const pages = (await readdir(join(home, 'docs'))).filter((f) => f.endsWith('.md'))
  const readme = await readFile(join(home, 'README.md'), 'utf8')
  for (const p of pages) expect(readme).toContain(`docs/${p}`)
  for (const p of pages) {
    for (const [, target] of (await page(p)).matchAll(/\(?\b([a-z-]+\.md)\b\)?/g))
      expect(pages, `${p} → ${target}`).toContain(target)
  }
})
