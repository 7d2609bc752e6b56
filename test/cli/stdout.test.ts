// Whatever cannot be printed is said in a sentence, and a reader that goes away is no error: on each of the ways to print.
import { execa } from 'execa'
import { test } from 'vitest'
import { vmspool } from '../support/agent.ts'
import { tempDir } from '../support/temp.ts'

test.concurrent.for([
  ['run of several', `run --no-fsync 'true one' 'true two'`],
  ['list', 'list -n 0 -o json'],
  ['any other command', '--help'],
] as const)('%s', async ([, line], { expect }) => {
  await using dir = await tempDir()
  const env = { ...process.env, VMSPOOL_ROOT: dir.path }
  const sh = (script: string) => execa('/bin/bash', ['-c', script], { env, reject: false })
  expect((await sh(`${vmspool} run --no-fsync true && ${vmspool} wait true`)).exitCode).toBe(0)
  expect(await sh(`${vmspool} ${line} > /dev/full`)).toMatchObject({
    exitCode: 74,
    stderr: expect.stringMatching(/^vmspool: What it prints cannot be written: ENOSPC[^\n]*\.$/),
  })
  const gone = await sh(`${vmspool} ${line} | true; exit \${PIPESTATUS[0]}`)
  expect([gone.exitCode, gone.stderr]).toEqual([0, ''])
})
