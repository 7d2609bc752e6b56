import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { command } from '../../src/jobs/command.ts'
import type { JobContext } from '../../src/jobs/types.ts'
import type { CommandManifest } from '../../src/manifest/index.ts'

const root = process.geteuid?.() === 0

async function runAs(uid: number, argv: string[]): Promise<{ out: string; error?: unknown }> {
  const dir = await mkdtemp(join(tmpdir(), 'vs-as-'))
  const logFile = join(dir, 'log')
  const context = {
    id: 'x',
    answer: 'x',
    epoch: 0,
    drop: { file: 'x', uid, gid: uid, at: '' },
    attemptDir: dir,
    signal: new AbortController().signal,
    progress: () => {},
    spawned: () => {},
    log: () => {},
    earlierAttempts: [],
    shim: { failures: 0, logFile },
    config: {
      timeouts: { job: 0, kill_grace: 1000 },
      logs: { max_bytes: 1e6, max_age: 0, total_bytes: 1e7 },
    },
  } as unknown as JobContext<CommandManifest>
  const out = async () =>
    (await readFile(logFile, 'utf8')).replaceAll(/^\S+ stdout F (.*\n)|^.*\n/gm, (_line, said?: string) => said ?? '')
  try {
    await command.run({ kind: 'command', command: { argv } } as CommandManifest, context)
    return { out: await out() }
  } catch (error) {
    return { out: await out(), error }
  } finally {
    await rm(dir, { recursive: true })
  }
}

test.runIf(root)('a program runs as whoever dropped it, with nothing of the agent’s rights', async () => {
  const { out } = await runAs(65534, [
    '/bin/sh',
    '-c',
    'id -u; id -G; grep -E "^(CapEff|NoNewPrivs)" /proc/self/status; pwd; echo "$HOME."',
  ])
  expect(
    out
      .split('\n')
      .slice(0, 6)
      .map((l) => l.replace(/\t/g, ' ')),
  ).toEqual(['65534', '65534', 'CapEff: 0000000000000000', 'NoNewPrivs: 1', '/', '.'])
  const secret = await mkdtemp(join(tmpdir(), 'vs-secret-'))
  await writeFile(join(secret, 'file'), 'of root', { mode: 0o600 })
  const { out: leaked, error } = await runAs(65534, ['cat', join(secret, 'file')])
  expect(leaked).not.toContain('of root')
  expect(error).toMatchObject({ code: 'exit-code' })
  expect(await readFile(join(secret, 'file'), 'utf8')).toBe('of root')
  await rm(secret, { recursive: true })
})

test('the agent’s own user runs as it is', async () => {
  const { out } = await runAs(process.geteuid!(), ['id', '-u'])
  expect(out.trim()).toBe(String(process.geteuid!()))
})
