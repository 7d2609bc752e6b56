/** Writes the table of settings in docs/configuration.md from the settings themselves; a test holds the two together. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { settings } from '../src/config/settings.ts'

const path = join(import.meta.dirname, '../docs/configuration.md')
const head = '| key | default | meaning |\n|---|---|---|\n'

const rows = Object.entries(settings)
  .filter(([, s]) => s.later === undefined)
  .map(([key, s]) => {
    const standard = typeof s.standard === 'string' ? s.standard : JSON.stringify(s.standard)
    const shown = s.standard === undefined ? '' : `\`${standard}\``
    return `| \`${key}\` | ${shown} | ${s.doc.replaceAll('|', '\\|')}${s.reload ? '' : ' *'} |\n`
  })

const text = readFileSync(path, 'utf8')
const from = text.indexOf(head) + head.length
const to = text.indexOf('\n\n', from)
writeFileSync(path, `${text.slice(0, from)}${rows.join('').trimEnd()}${text.slice(to)}`)
