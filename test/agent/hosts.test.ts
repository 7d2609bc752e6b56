// Jobs that ask for a host or for what a host has, with real agents.
import { hostname } from 'node:os'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { bed } from '../support/agent.ts'
import { commandManifest } from '../support/manifests.ts'
import { drop, endOf, statusOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

describe.concurrent('hosts', () => {
  test('a job waits for an agent that has what it asks for, and others pass it', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const agent = await b.start()
    await drop(b, commandManifest('wants-both', ['true'], { hosts: ['nowhere', 'gpu+fast'] }))
    await drop(b, commandManifest('later', ['true'], { priority: 9 }))
    await drop(b, commandManifest('here', ['true'], { hosts: hostname().toUpperCase() }))
    expect((await endOf(b, 'later')).state).toBe('succeeded')
    expect((await endOf(b, 'here')).state).toBe('succeeded')
    await until('it says what for', async () =>
      /an agent whose host is or has nowhere or gpu\+fast: there is only/.test(
        String((await statusOf(b, 'wants-both'))?.waiting_on),
      ),
    )
    // An agent that has one of the two is not enough; that it has both is noticed without a restart of the other.
    const half = await b.start({ worker: true, config: { host: { labels: ['gpu'] } } })
    await drop(b, commandManifest('gpu', ['true'], { hosts: 'gpu' }))
    const gpu = await endOf(b, 'gpu')
    expect(gpu.state).toBe('succeeded')
    expect(gpu.owner).toContain(`.${half.pid}.`)
    expect((await statusOf(b, 'wants-both'))?.state).toBe('queued')
    await b.start({ worker: true, config: { host: { labels: ['gpu', 'fast'] } } })
    expect((await endOf(b, 'wants-both')).state).toBe('succeeded')
    expect(agent.alive()).toBe(true)
  })

  test('labels that are given to a running agent count at once', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const agent = await b.start()
    await drop(b, commandManifest('x', ['true'], { hosts: ['disk=fast'] }))
    await until('it waits', async () => /disk=fast/.test(String((await statusOf(b, 'x'))?.waiting_on)))
    await writeFile(
      join(b.dir, 'agent.yaml'),
      JSON.stringify({ runtime_dir: join(b.dir, 'run'), host: { labels: ['disk=fast'] } }),
    )
    agent.signal('SIGHUP')
    expect((await endOf(b, 'x')).state).toBe('succeeded')
  })
})
