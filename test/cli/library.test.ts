// The library, as a program uses it, against a real agent.
import { join } from 'node:path'
import { expect, test } from 'vitest'
import * as vmspool from '../../src/index.ts'
import { bed } from '../support/agent.ts'
import { holds, makeDisk } from '../support/disks.ts'
import { artifactManifest, commandManifest } from '../support/manifests.ts'
import { runBed } from '../support/run-bed.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const config = { lease: { timeout: '3s' }, retry: { max_attempts: 0 } }

test('submit, wait, status, result, logs, fetchResult, list', async () => {
  await using dir = await tempDir()
  await using b = await bed(dir.path, config)
  await b.start()
  const place = { root: b.dir, instance: b.instance }
  const disk = await makeDisk(dir.path, 'lib', { size_mib: 8 })
  const submission = await vmspool.submit(artifactManifest('lib', [disk]), place)
  expect(submission).toEqual({ drop_file: expect.stringMatching(/^manifest\.[0-9a-f]{16}\.json$/), name: 'lib' })
  const states: string[] = []
  const ended = await vmspool.wait(submission, { ...place, onStatus: (s) => states.push(s.state) })
  expect(ended).toMatchObject({ state: 'succeeded', name: 'lib', drop_file: submission.drop_file })
  expect(states.at(-1)).toBe('succeeded')
  // stored and waited for by another program: plain data is enough
  expect(await vmspool.wait(JSON.parse(JSON.stringify({ drop_file: submission.drop_file })), place)).toEqual(ended)
  expect(await vmspool.status('lib', place)).toEqual(ended)
  expect(await vmspool.result('lib', place)).toMatchObject({ id: ended.id, state: 'succeeded' })
  expect(await vmspool.list({ ...place, states: ['succeeded'] })).toMatchObject([{ id: ended.id }])
  const files = await vmspool.fetchResult(ended.id, join(dir.path, 'mine'), place)
  expect(files.at(-1)).toBe(join(dir.path, 'mine/lib.qcow2'))
  expect(await holds(files.at(-1)!, 'qcow2', disk)).toBe(true)
})

test('cancel, and logs that end with the job', async () => {
  await using dir = await tempDir()
  await using b = await bed(dir.path, config)
  await b.start()
  const place = { root: b.dir, instance: b.instance }
  const submission = await vmspool.submit(
    commandManifest('long', ['/bin/sh', '-c', 'echo here; exec sleep 600']),
    place,
  )
  const seen: string[] = []
  await until('it runs', async () => (await vmspool.status('long', place).catch(() => undefined))?.state === 'running')
  for await (const part of vmspool.logs('long', { ...place, follow: true })) {
    seen.push(part.toString())
    if (seen.join('').includes('here'))
      await vmspool.cancel('long', place).catch((e) => expect(e).toMatchObject({ exitCode: 1 }))
  }
  expect(seen.join('')).toContain('here')
  expect(await vmspool.wait(submission, place)).toMatchObject({ state: 'cancelled' })
})

test('run and stop: a command without an agent', async () => {
  await using b = await runBed()
  const place = { root: b.layout.root, instance: 'default' }
  const started = await vmspool.run(['sh', '-c', 'echo "$A"; exec sleep 600'], {
    ...place,
    env: { A: 'b' },
    cwd: b.dir,
  })
  expect(started).toMatchObject({ name: 'sh', state: 'running', direct: true, cwd: b.dir, pid: expect.any(Number) })
  await expect(vmspool.wait(started.id, { ...place, timeoutMs: 100 })).rejects.toMatchObject({ exitCode: 124 })
  const said = async (): Promise<string> => {
    const parts: Buffer[] = []
    for await (const part of vmspool.logs(started.id, place)) parts.push(part)
    return Buffer.concat(parts).toString()
  }
  await until('it has spoken', async () => (await said()) !== '')
  expect(await vmspool.stop(started.id, place)).toMatchObject({ id: started.id, state: 'cancelled', signal: 'SIGTERM' })
  await expect(vmspool.stop('sh', place)).rejects.toMatchObject({ exitCode: 1 })
  expect(await said()).toBe('b\n')
  const none = await vmspool.run(['no-such-program'], place).catch((e) => e)
  expect(none).toMatchObject({
    exitCode: 1,
    message: expect.stringContaining('there is no program "no-such-program" in PATH'),
  })
  await expect(vmspool.run([], place)).rejects.toMatchObject({ exitCode: 2 })
})

test('errors carry the exit code of the command line', async () => {
  await using dir = await tempDir()
  const place = { root: dir.path, instance: 'none' }
  await expect(vmspool.submit(commandManifest('x', ['true']), place)).rejects.toMatchObject({ exitCode: 73 })
  await expect(vmspool.status('x', place)).rejects.toMatchObject({ exitCode: 73 })
  await expect(vmspool.control('status', place)).rejects.toMatchObject({ exitCode: 69 })
  const error = await vmspool.submit({ kind: 'command', name: '../x', command: { argv: [] } }, place).catch((e) => e)
  expect(error).toBeInstanceOf(vmspool.ManifestError)
  expect(error.exitCode).toBe(65)
  expect(error.diagnostics.length).toBeGreaterThan(1)
})

test('a wait can be timed out, aborted, or given up for want of an agent', async () => {
  await using dir = await tempDir()
  await using b = await bed(dir.path, config)
  const place = { root: b.dir, instance: b.instance }
  await (await b.start()).stop()
  const submission = await vmspool.submit(commandManifest('later', ['true']), place)
  await expect(vmspool.wait(submission, { ...place, timeoutMs: 300 })).rejects.toMatchObject({ exitCode: 124 })
  await expect(vmspool.wait(submission, { ...place, agentGraceMs: 300 })).rejects.toMatchObject({ exitCode: 69 })
  await expect(vmspool.wait(submission, { ...place, signal: AbortSignal.abort() })).rejects.toMatchObject({
    exitCode: 130,
  })
})
