// Folders that an instance may not have: those of another one, and those in another mount.
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { expect, test } from 'vitest'
import { cli } from '../cli/run.ts'
import { vmspool } from '../support/agent.ts'
import { tempDir } from '../support/temp.ts'

test('two instances do not work with one output folder', async () => {
  await using dir = await tempDir()
  const env = { VMSPOOL_OUTPUT: join(dir.path, 'out'), VMSPOOL_RUNTIME_DIR: join(dir.path, 'run') }
  const agent = (name: string) => ['agent', name, '--root', join(dir.path, 'root')]
  let second: ReturnType<typeof cli> | undefined
  let asked: Promise<unknown> | undefined
  const first = await cli(agent('one'), {
    env,
    onOutput(text, kill) {
      if (second || !text.includes('agent.ready')) return
      second = cli(agent('two'), { env })
      asked = second.finally(() => kill('SIGTERM'))
    },
  })
  await asked
  const r = await second
  expect(r?.code).toBe(78)
  expect(r?.err).toMatch(/An agent of another instance \(pid \d+, since .*\) works with the same output folder/)
  expect(first.code).toBe(0)
})

test.runIf(process.geteuid?.() === 0)('a queue in another mount is refused before anything is taken', async () => {
  await using dir = await tempDir()
  const queue = join(dir.path, 'queue')
  await mkdir(queue)
  // as ReadWritePaths= of a unit makes it: the same file system, and no rename from one to the other
  const script = 'mount --bind "$1" "$1"; shift; exec "$@"'
  const inside = ['--mount', '--propagation', 'private', 'sh', '-ec', script, 'sh', queue]
  const env = { VMSPOOL_QUEUE: queue, VMSPOOL_RUNTIME_DIR: join(dir.path, 'run') }
  const agent = [vmspool, 'agent', 'x', '--root', join(dir.path, 'root')]
  const r = await execa('unshare', [...inside, ...agent], { env, reject: false, stdin: 'ignore' })
  expect([r.exitCode, r.stderr]).toEqual([78, expect.stringContaining('lie in different mounts of one file system')])
})
