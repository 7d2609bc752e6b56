// What a command reads: text from its manifest, or a file that its submitter may read.
import { chown, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type Bed, bed } from '../support/agent.ts'
import { commandManifest } from '../support/manifests.ts'
import { drop, endOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'

const reads = (name: string, more: object) => commandManifest(name, ['cat'], { command: { argv: ['cat'], ...more } })

async function outputOf(b: Bed, name: string): Promise<string> {
  const { id, state, reason } = await endOf(b, name)
  expect([state, reason]).toEqual(['succeeded', expect.anything()])
  const log = await readFile(join(b.layout.outputJobs, id, 'log'), 'utf8')
  return [...log.matchAll(/ stdout ([FP]) (.*)\n/g)].map((m) => m[2] + (m[1] === 'F' ? '\n' : '')).join('')
}

test('a command reads what its manifest gives it, and nothing when it gives nothing', async () => {
  await using dir = await tempDir()
  await using b = await bed(dir.path)
  await b.start()
  const file = join(dir.path, 'input')
  await writeFile(file, 'from a file\n')
  await drop(b, reads('text', { stdin: 'one\ntwo, without an end' }))
  await drop(b, reads('file', { stdin_file: file }))
  await drop(b, reads('nothing', {}))
  expect(await outputOf(b, 'text')).toBe('one\ntwo, without an end')
  expect(await outputOf(b, 'file')).toBe('from a file\n')
  expect(await outputOf(b, 'nothing')).toBe('')
})

test.runIf(process.geteuid?.() === 0)('nobody reads through a command what he may not read himself', async () => {
  await using dir = await tempDir()
  await using b = await bed(dir.path)
  await b.start()
  const file = join(dir.path, 'of-root')
  await writeFile(file, 'of root', { mode: 0o600 })
  const dropped = join(b.layout.queue, '.thief')
  await writeFile(dropped, JSON.stringify(reads('thief', { stdin_file: file })))
  await chown(dropped, 65534, 65534)
  await rename(dropped, join(b.layout.queue, 'thief.json'))
  const { id, state, reason } = await endOf(b, 'thief')
  expect([state, reason]).toEqual(['failed', expect.stringMatching(/uid 65534\) may not read/)])
  expect(await readFile(join(b.layout.outputJobs, id, 'log'), 'utf8')).not.toContain('of root')
})
